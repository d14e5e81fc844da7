"""The report as a file: what it holds, what it must not hold, and how it is written."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
import warnings
from html.parser import HTMLParser
from importlib.resources import files

import msgspec
import pytest

from resift import InputError
from resift.errors import ExtraError, OutputError
from resift.evaluate import results
from resift.files.escapes import UNSAFE
from tests.support.evaluations import bare, evaluation, given, hostile, place, reranked

pytest.importorskip("jinja2", reason="needs the extra eval")
pytest.importorskip("matplotlib", reason="needs the extra eval")
from resift.evaluate.report.figures import draw
from resift.evaluate.report.write import QUERIES, ROWS, page, write_report

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """A page's tags, attributes and text; a tag that is not closed where it must be is an AssertionError."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else None, data))

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag=None):
        return " ".join(
            " ".join(data for inside, data in self.texts if inside not in {"style", "script"} and tag in {None, inside}).split()
        )

    def ids(self):
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


CASES = {
    "full": evaluation,
    "bare": bare,
    "one query": lambda: evaluation(number=1),
    "no query": lambda: evaluation(number=0, regressions=[]),
    "hundreds": lambda: evaluation(*[reranked(f"model {seed}", number=300, seed=seed) for seed in range(9)], number=300),
    "no latency": lambda: evaluation(reranked(latency_ms=None, pairs_per_second=None, scores=None, agreement=None)),
    "one size": lambda: evaluation(
        reranked(curve=[0.6]), systems=[given(curve=[0.5]), reranked(curve=[0.6])], sizes=[9], recall=[1.0]
    ),
    "without differences": lambda: evaluation(reranked(differences={})),
    "all equal": lambda: evaluation(reranked(quality=0.5, seed=0, change=(0, 0, 0, 1.0)), recall=[0.0, 0.0, 0.0]),
    "no length": lambda: evaluation(
        lengths=results.PairLengths(edges=[0, 1], counts=[0], max_length=512, pairs=0, pairs_cut=0, mean_share_cut=0)
    ),
    "instant": lambda: evaluation(reranked(latency_ms=results.Latency(p50=0, p95=0))),
    "slow": lambda: evaluation(reranked(latency_ms=results.Latency(p50=0.02, p95=3e6))),
    "hostile": hostile,
}


@pytest.fixture(scope="module", params=CASES)
def written(request):
    return page(CASES[request.param]())


@pytest.fixture(scope="module")
def whole():
    return page(evaluation())


def test_the_page_is_well_formed_and_every_reference_leads_somewhere(written):
    found = Page(written)
    ids = found.ids()
    assert len(ids) == len(set(ids))
    referred = [name for _, attributes in found.tags for name in (attributes.get("aria-labelledby") or "").split()]
    for _, attributes in found.tags:
        referred += [value[1:] for name, value in attributes.items() if name == "href"]
        referred += [name for value in attributes.values() for name in re.findall(r"url\(#([^)]*)\)", value or "")]
    assert set(referred) <= set(ids)


def test_the_page_loads_nothing_and_its_policy_allows_only_what_is_in_it(written):
    found = Page(written)
    for tag, attributes in found.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "form", "base", "image", "foreignobject"}
        assert not attributes.keys() & {"src", "srcset", "action", "data", "style", "xlink:href", "background", "ping"}
        assert not [name for name in attributes if name.startswith("on")]
        assert all(attributes[name].startswith("#") for name in attributes.keys() & {"href"})
        assert all("url(#" in value for value in attributes.values() if value and "url(" in value)
    policies = [
        attributes["content"] for attributes in found.named("meta") if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    (policy,) = policies
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for tag in ("style", "script"):
        sources = re.findall(rf"<{tag}>(.*?)</{tag}>", written, re.DOTALL)
        hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'" for source in sources]
        assert {rules[f"{tag}-src"]} >= set(hashes)
    assert "url(" not in re.search(r"<style>(.*?)</style>", written, re.DOTALL)[1]
    assert "@import" not in written


def test_figures_have_words_for_those_who_do_not_see_them_and_colors_of_the_page(written):
    found = Page(written)
    assert len(found.named("svg")) == len(found.named("figcaption")) == len(found.named("figure"))
    for attributes in found.named("svg"):
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"]) > 10
    drawn = " ".join(re.findall(r"<svg.*?</svg>", written, re.DOTALL))
    colors = set(re.findall(r'(?:fill|stroke)="([^"]*)"', drawn))
    assert {color for color in colors if not color.startswith(("var(--", "url(#"))} <= {"none"}
    assert "DejaVu" not in drawn


def test_tables_and_regions_are_named(written):
    found = Page(written)
    assert len(found.named("h1")) == len(found.named("main")) == len(found.named("title")) == 1
    assert len(found.named("caption")) == len(found.named("table"))
    assert all("scope" in attributes for attributes in found.named("th"))
    scrolled = [attributes for attributes in found.named("div") if "scroll" in attributes.get("class", "")]
    assert all(attributes["tabindex"] == "0" and attributes["role"] == "region" for attributes in scrolled)


def test_a_page_of_everything(whole):
    found = Page(whole)
    assert {"systems", "candidates", "pairs", "findings", "worst", "queries", "about"} <= set(found.ids())
    assert len(found.named("svg")) == 6
    assert found.text("h1") == "Reranking raises nDCG@10 from 0.500 to 0.700"
    text = found.text()
    for words in (
        "+0.2000",
        "[+0.1000 to +0.3000]",
        "p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.001",
        "90.5\u202fms",
        "131\u202fms",
        "432",
    ):
        assert " ".join(words.split()) in text
    for words in ("no judgement: 2", "a processor, 2 threads", "onnxruntime 1.29.0", "2025-01-02T03:04:05Z", "0.3100", "47\u202f%"):
        assert " ".join(words.split()) in text
    assert text.index("Two pairs are cut.") < text.index("Small pools.")
    assert "1 finding that may change this" in text


def test_a_page_of_nothing_more_than_must_be():
    found = Page(page(bare()))
    assert {"systems", "queries", "about"} <= set(found.ids())
    assert not {"candidates", "pairs", "findings", "worst"} & set(found.ids())
    assert found.named("svg") == []
    assert "Only one order was measured" in found.text()


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        ({"regressions": []}, "worst"),
        ({"findings": []}, "findings"),
        ({"sizes": [], "recall": [], "systems": [given(by_size={}), reranked(by_size={})]}, "candidates"),
        ({"lengths": None, "systems": [given(), reranked(scores=None)]}, "pairs"),
    ],
)
def test_a_section_without_data_is_absent_and_nothing_leads_there(missing, gone, whole):
    text = page(evaluation(**missing))
    assert f'id="{gone}"' not in text
    assert f'"#{gone}"' not in text
    assert f'id="{gone}"' in whole


def test_markup_in_texts_stays_text():
    text = page(hostile())
    found = Page(text)
    assert [tag for tag, _ in found.tags if tag in {"script", "img"}] == ["script"]
    assert "<script>alert(1)</script>" in found.text()
    assert "{{ 7 * 7 }} $x^2$ & \\u202egnp.\\x00" in found.text()
    assert set(UNSAFE.findall(text)) <= {"\n"}


def test_any_name_is_drawn_as_it_is_and_without_a_warning():
    names = ["_underscore", "$x_2$", "\u6a21\u578b \U0001f389", "a\\b%"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = page(evaluation(*[reranked(name, seed=seed) for seed, name in enumerate(names)]))
    drawn = [" ".join(words.split()) for words in re.findall(r"<text[^>]*>([^<]*)</text>", text)]
    for name in names:
        assert drawn.count(name) == 4  # quality, latency, sizes, scores


def test_figures_stay_small_however_many_queries_there_are(whole):
    many = page(evaluation(reranked(number=20_000), number=20_000, regressions=[]))
    sizes = [sum(map(len, re.findall(r"<svg.*?</svg>", text, re.DOTALL))) for text in (many, whole)]
    assert sizes[0] < sizes[1] + 60_000
    assert "20,000" in many


def test_systems_whose_scores_are_not_drawn_are_counted():
    text = page(evaluation(*[reranked(f"model {seed}", seed=seed) for seed in range(8)]))
    assert "The first 6 of 8 systems." in text


def test_seamss_are_cut(whole):
    long = "word " * 200_000
    unbroken = "x" * 1_000_000
    spots = [place(1, 1, text=long), place(2, 2, text=unbroken, docid=unbroken)]
    regression = results.Regression(
        qid=unbroken, query=long, system=unbroken, measure="nDCG@10", baseline=1, value=0, before=spots, after=spots
    )
    named = evaluation(reranked(unbroken, source=unbroken), machine=long, regressions=[regression])
    assert len(page(named)) < len(whole) + 20_000


def test_the_table_of_queries_is_whole_and_in_order_without_scripts(whole):
    found = re.findall(r'data-number="([^"]*)">[^<]*</td></tr>', whole)
    assert len(found) == 40
    assert [float(value) for value in found] == sorted(float(value) for value in found)


def test_the_table_of_queries_says_so_if_it_is_not_whole(whole):
    number = ROWS + 200
    text = page(evaluation(reranked(number=number), number=number))
    assert text.count('<tr><th scope="row" class="narrow">') == ROWS
    assert f"the 1,000 that changed most of {number:,}" in text
    assert "that changed most" not in whole


def regressions(count, system="model int8", **more):
    one = msgspec.structs.replace(evaluation().regressions[0], system=system, **more)
    return [msgspec.structs.replace(one, qid=f"q{row}", query=f"question {row}", value=0.1 + row / 100) for row in range(count)]


def test_of_many_worst_queries_the_first_are_shown_and_the_rest_counted():
    text = page(evaluation(regressions=regressions(QUERIES + 5)))
    assert text.count('<div class="sides">') == QUERIES
    assert f"{QUERIES} of {QUERIES + 5}" in text


def test_a_query_that_two_systems_rank_worse_is_listed_once():
    alike = page(evaluation(regressions=[*regressions(3), *regressions(3, "other")]))
    assert (alike.count('<strong dir="auto">'), alike.count('<div class="sides">')) == (3, 3)
    assert "<bdi>model int8</bdi>, <bdi>other</bdi>" in alike
    differ = page(evaluation(regressions=[*regressions(3), *regressions(2, "other", after=[place(1, 7)])]))
    assert (differ.count('<strong dir="auto">'), differ.count('<div class="sides">')) == (3, 5)
    assert differ.count('<p class="outcome">') == 4


def test_the_largest_loss_of_any_system_comes_first():
    small = regressions(2, "small", baseline=0.3)
    found = re.findall(r'<strong dir="auto">question (\d)', page(evaluation(regressions=[*small, *regressions(4)[2:]])))
    assert found == ["2", "3", "0", "1"]


def ticks(plot):
    """The numbers on a figure's axes."""
    texts = (text.strip().replace("\N{MINUS SIGN}", "-") for text in re.findall(r"<text[^>]*>([^<]*)</text>", plot.svg))
    return [float(text) for text in texts if re.fullmatch(r"-?[0-9.]+", text)]


def test_bars_and_axes_end_where_the_measure_does():
    high = evaluation(
        reranked(quality=0.99, change=(0.04, -0.01, 0.09, 0.1), curve=(0.9, 0.99, 1.0)),
        systems=[
            given(quality=0.95, curve=(0.9, 0.94, 0.95)),
            reranked(quality=0.99, change=(0.04, -0.01, 0.09, 0.1), curve=(0.9, 1, 1)),
        ],
    )
    plots = draw(high)
    assert "0.9900 (0.9400 to 1.0000)" in plots["quality"].svg
    assert "Bars end at 0 and 1, beyond which nDCG@10 cannot be." in plots["quality"].caption
    assert "Bars end" not in draw(evaluation())["quality"].caption
    for name in ("quality", "latency", "sizes"):
        assert max(number for number in ticks(plots[name]) if number < 2) <= 1, name


@pytest.mark.parametrize("number", [2, 3, 5, 7, 10, 13, 25])
def test_ticks_of_counts_are_whole_numbers(number):
    lengths = results.PairLengths(edges=[0, 3, 6], counts=[2, 1], max_length=3, pairs=3, pairs_cut=1, mean_share_cut=0.5)
    plots = draw(evaluation(reranked(number=number), number=number, lengths=lengths, sizes=[1, 2, 3]))
    assert all(tick.is_integer() for tick in ticks(plots["lengths"]))
    assert all(tick.is_integer() for tick in ticks(plots["gains"]) if abs(tick) >= 1)
    assert [tick for tick in ticks(plots["sizes"]) if tick >= 1.5] == [2, 3]


def test_moves_between_the_two_rankings():
    spots = {
        "before": [place(1, 1, docid="a"), place(2, 2, docid="b")],
        "after": [place(1, 9, docid="c"), place(2, 2, docid="b"), place(3, 1, docid="a")],
    }
    one = msgspec.structs.replace(evaluation().regressions[0], **spots)
    notes = re.findall(r"\n· ([^·<]*)", page(evaluation(regressions=[one])))
    assert [note.strip() for note in notes] == ["now 3", "same place", "was 9", "same place", "was 1"]
    other = msgspec.structs.replace(evaluation(), systems=[reranked("order given", differences={}), reranked()], regressions=[one])
    notes = re.findall(r"\n· ([^·<]*)", page(other))
    assert [note.strip() for note in notes] == ["now 3", "same place", "was below 2", "same place", "was 1"]


def test_equal_evaluations_give_equal_bytes_also_through_json(tmp_path):
    first, second = tmp_path / "a.html", tmp_path / "b.html"
    write_report(evaluation(), first)
    decoded = msgspec.json.decode(msgspec.json.encode(evaluation()), type=results.Evaluation)
    write_report(decoded, str(second))
    assert first.read_bytes() == second.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.html", "b.html"}


def test_matplotlib_is_left_as_it_was():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    page(evaluation())
    assert dict(mpl.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or mpl.pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"baseline": "another"}, "the baseline 'another' is not one of the evaluation's systems"),
        ({"measures": []}, "no measures"),
        ({"measures": ["nDCG@10", "RR"]}, "has no RR"),
        ({"measures": ["nDCG@10", "x" * 61]}, "a measure is called"),
        ({"measures": ["nDCG@10", "a\x00<b>"]}, r"a measure is called 'a\\x00<b>'; expected a name of ir-measures"),
        ({"recall": [0.1]}, "1 values of recall for 3 sizes"),
        ({"systems": [given(), given()]}, "two systems of the evaluation have the same name"),
        ({"systems": [given(), reranked(number=39)]}, "for 39 queries; expected 40"),
        ({"systems": [given(), reranked(curve=[0.1])]}, "at 1 sizes; expected 3"),
        ({"systems": [given(), reranked(quality=float("nan"))]}, r"measures.nDCG@10 is nan; expected a finite number"),
        ({"recall": [0.1, float("inf"), 0.3]}, r"recall.1 is inf"),
        (
            {"systems": [given(), reranked(scores=results.ScoreHistograms(edges=[0, 1], relevant=[1, 2], other=[1]))]},
            "2 counts and 2 edges",
        ),
        (
            {"systems": [given(), reranked(scores=results.ScoreHistograms(edges=[1, 0], relevant=[1], other=[1]))]},
            "in rising order",
        ),
    ],
)
def test_an_evaluation_that_contradicts_itself_is_refused(change, words, tmp_path):
    with pytest.raises(InputError, match=words):
        write_report(evaluation(**change), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_fails_leaves_the_earlier_one(tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    out.write_text("earlier")
    with pytest.raises(InputError):
        write_report(evaluation(measures=[]), out)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=r"report.html cannot be written: No space left"):
        write_report(evaluation(), out)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.html", "earlier")]


def full(_):
    raise OSError(28, "No space left on device")


def test_a_report_goes_to_a_regular_file_or_its_link(tmp_path):
    with pytest.raises(OutputError, match="is not a regular file"):
        write_report(evaluation(), tmp_path)
    with pytest.raises(OutputError, match="cannot be written: No such file or directory"):
        write_report(evaluation(), tmp_path / "missing" / "report.html")
    link, target = tmp_path / "link.html", tmp_path / "target.html"
    link.symlink_to(target)
    write_report(evaluation(), link)
    assert link.is_symlink()
    assert target.read_text().startswith("<!DOCTYPE html>")
    (tmp_path / "plain").touch()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["jinja2", "matplotlib"])
def test_a_missing_library_is_named_with_the_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExtraError, match=r"a report needs .*pip install 'resift\[eval\]'"):
        page(evaluation())


def luminance(color):
    """Relative luminance (https://www.w3.org/TR/WCAG22/#dfn-relative-luminance)."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colors_are_read_on_their_paper_in_every_mode():
    style = (files("resift.evaluate.report") / "page" / "report.css").read_text()
    palettes = [dict(re.findall(r"--(\w+): (#\w+);", found)) for found in re.findall(r":root \{(.*?)\}", style, re.DOTALL)]
    assert len(palettes) == 3
    for palette in palettes:
        colors = {name: luminance(re.sub(r"^#(\w)(\w)(\w)$", r"#\1\1\2\2\3\3", color)) for name, color in palette.items()}
        for ink in ("ink", "muted", "first", "second"):
            for paper in ("paper", "raised"):
                high, low = sorted((colors[ink], colors[paper]), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, paper, palette)
