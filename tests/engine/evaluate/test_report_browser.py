"""The report in a browser: a desktop's and a phone's width, light and dark, with sorting."""

from __future__ import annotations

import pytest

from tests.support.evaluations import HOSTILE, evaluation, given, hostile, reranked

pytest.importorskip("jinja2", reason="needs the extra eval")
pytest.importorskip("matplotlib", reason="needs the extra eval")
from resift.evaluate.report.write import write_report

LONG = "unbroken" * 200
REPORTS = {
    "full": evaluation,
    "hostile": hostile,
    "long names": lambda: evaluation(
        given(), systems=[given(), *[reranked(f"{LONG}{number}", seed=number, source=LONG) for number in range(4)]], machine=LONG
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("reports")
    for name, make in REPORTS.items():
        write_report(make(), found / f"{name}.html")
    return found


@pytest.fixture
def opened(visit, folder):
    """opened(name, width, scheme, expected=()) -> the report's page; its console must say nothing but what is expected."""

    def at(name="full", *, width=1280, scheme="light", expected=()):
        shape = {"viewport": {"width": width, "height": 844}, "is_mobile": width < 600}
        return visit((folder / f"{name}.html").as_uri(), expected, color_scheme=scheme, **shape)

    return at


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", REPORTS)
def test_a_report_fits_its_window_and_the_console_is_silent(opened, name, width, scheme):
    tab = opened(name, width=width, scheme=scheme)
    assert tab.evaluate("innerWidth") == width
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(
        "[...document.querySelectorAll('svg, p, h1, h2, h3, dd, li')].every(e => e.getBoundingClientRect().right <= innerWidth + 1)"
    )
    assert tab.evaluate("[...document.querySelectorAll('svg')].every(e => e.getBoundingClientRect().height > 60)")
    assert tab.evaluate(
        "[...document.querySelectorAll('.about dd')].every(e => e.offsetParent === null || e.clientWidth > innerWidth / 2)"
    )


HINTS = """[...document.querySelectorAll('.scroll')].map(e => {
    const hint = getComputedStyle(e.querySelector('caption span'), '::after').content;
    return [e.scrollWidth > e.clientWidth, hint.includes('Scroll sideways')];
})"""


def test_a_table_that_is_cut_says_that_it_scrolls(opened):
    tab = opened(width=390)
    tab.locator(".wider").first.wait_for()
    found = tab.evaluate(HINTS)
    assert [True, True] in found
    assert all(is_wider == says_so for is_wider, says_so in found)
    shades = tab.evaluate("getComputedStyle(document.querySelector('.scroll')).backgroundAttachment")
    assert shades == "local, local, scroll, scroll"
    wide = opened(width=1280)
    assert not any(is_wider or says_so for is_wider, says_so in wide.evaluate(HINTS))


def test_colors_follow_the_scheme(opened):
    colors = []
    for scheme in ("light", "dark"):
        tab = opened(scheme=scheme)
        page = "getComputedStyle(document.body).backgroundColor"
        bar = "getComputedStyle(document.querySelector('svg path[fill=\"var(--first)\"]')).fill"
        colors += [tab.evaluate(page), tab.evaluate(bar)]
    assert len(set(colors)) == 4
    assert all(color.startswith("rgb(") for color in colors)


def test_text_of_figures_is_read_on_a_phone(opened):
    tab = opened(width=390)
    sizes = "[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect().width / e.viewBox.baseVal.width)"
    assert min(tab.evaluate(sizes)) * 12 >= 9.5


def test_a_click_sorts_the_table_of_queries(opened):
    tab = opened()
    cells = "[...document.querySelectorAll('[data-sortable] tbody tr')].map(row => Number(row.lastElementChild.dataset.number))"
    click = "document.querySelector('[data-sortable] thead th:last-child button').click()"
    order = "document.querySelector('[data-sortable] thead th:last-child').ariaSort"
    found = tab.evaluate(cells)
    for kind, wanted in (("ascending", sorted(found)), ("descending", sorted(found, reverse=True))):
        tab.evaluate(click)
        assert (tab.evaluate(order), tab.evaluate(cells)) == (kind, wanted)
    tab.evaluate("document.querySelector('[data-sortable] thead th button').click()")
    names = tab.evaluate("[...document.querySelectorAll('[data-sortable] tbody tr')].map(row => row.cells[0].textContent.trim())")
    assert names == [f"q{number}" for number in range(40)]


def test_markup_in_texts_is_shown_and_does_nothing(opened):
    tab = opened("hostile")
    assert HOSTILE[:41] in tab.evaluate("document.querySelector('.words').textContent")
    assert tab.evaluate("document.images.length") == 0


def test_the_policy_stops_what_is_not_the_reports_own(opened):
    tab = opened(expected=["Content Security Policy"])
    complaints = []
    tab.on("console", lambda said: complaints.append(said.text))
    tab.evaluate("{const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)}")
    tab.evaluate("document.body.insertAdjacentHTML('beforeend', '<p id=x style=\"color: red\">text</p>')")
    assert tab.evaluate("window.ran") is None
    assert tab.evaluate("getComputedStyle(document.getElementById('x')).color") != "rgb(255, 0, 0)"
    assert len(complaints) == 2
    assert all("Content Security Policy" in text for text in complaints)


def test_all_details_are_printed(opened):
    tab = opened()
    closed = "getComputedStyle(document.querySelector('details:not([open])'), '::details-content').contentVisibility"
    assert tab.evaluate(closed) == "hidden"
    tab.emulate_media(media="print")
    assert tab.evaluate(closed) == "visible"
    assert tab.evaluate("getComputedStyle(document.querySelector('.tall')).maxHeight") == "none"


def test_findings_differ_by_more_than_their_words(opened):
    tab = opened()
    colors = "[...document.querySelectorAll('.findings li')].map(e => getComputedStyle(e).borderLeftColor)"
    assert len(set(tab.evaluate(colors))) == 2
