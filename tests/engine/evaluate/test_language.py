from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resift import Reranker
from resift.artifact.certificate import Certificate
from resift.artifact.folder import Artifact
from resift.encoding.tokenizer import PairTokenizer
from resift.evaluate.doctor import language
from resift.evaluate.doctor.diagnosis import diagnose
from resift.pools.reading import CandidatePool
from resift.pools.source import read_pools
from tests.support import tiny

pytestmark = pytest.mark.filterwarnings("error")

POOLS = Path(__file__).parents[2] / "pools"
SCIENCE = [
    "Mitochondrial fission inhibitors reduce apoptosis in murine cardiomyocytes after ischaemia-reperfusion injury (p < 0.001).",
    "Phosphorylation of the receptor tyrosine kinase recruits adaptor proteins that activate downstream signalling cascades.",
    "We characterized 14 polymorphisms of the CYP2D6 locus by whole-exome sequencing of 1,204 unrelated individuals.",
]
MEDICINE = [
    "Gastro-oesophageal reflux disease is treated with omeprazole 20 mg daily; persistent dysphagia warrants endoscopy.",
    "Hypothyroidism may present with fatigue, bradycardia, constipation and paraesthesia; measure TSH and free thyroxine.",
    "Side effects of methotrexate include mucositis, hepatotoxicity and, rarely, interstitial pneumonitis.",
]
CODE = [
    "def read_lines(path):\n    with open(path, encoding='utf-8') as file:\n        return [line.strip() for line in file]\n",
    "SELECT customer, SUM(amount) AS total FROM orders WHERE created > '2024-01-01' GROUP BY customer HAVING SUM(amount) > 100;",
]
WEB = ["See https://www.example.org/help/contact?lang=en for opening hours, prices and how to get here by bus or train. " * 2]


@pytest.fixture(scope="module")
def english():
    """The embedded model's tokenizer, and bytes a token on its gate pools."""
    artifact = Artifact.find(None)
    tokenizer = PairTokenizer(artifact.read("tokenizer.json"), artifact.manifest.pair.max_length)
    pools = Certificate.read(artifact).pools
    return tokenizer, language.measure(tokenizer, [text for pool in pools for text in pool.documents]).bytes_per_token()


@pytest.mark.parametrize("texts", [SCIENCE, MEDICINE, CODE, WEB], ids=["science", "medicine", "code", "web"])
def test_english_of_any_kind_is_known(english, texts):
    tokenizer, known = english
    assert language.measure(tokenizer, texts).foreign_mask(known).tolist() == [False] * len(texts)


@pytest.mark.parametrize(
    "text",
    [
        "La force d'attraction de la lune soulève la mer des deux côtés de la terre, et chaque côte y passe deux fois par jour.",
        "La atracción de la luna levanta el mar a ambos lados de la tierra, y cada costa pasa por allí dos veces al día.",
        "De aantrekkingskracht van de maan trekt het zeewater aan beide kanten van de aarde omhoog.",
        "Przyciąganie Księżyca podnosi wodę morską po obu stronach Ziemi, dlatego przypływ jest dwa razy na dobę.",
        "Kuun vetovoima kohottaa merivettä maapallon molemmin puolin, ja siksi nousuvesi tulee kaksi kertaa.",
        "Притяжение Луны поднимает морскую воду по обе стороны Земли, поэтому прилив бывает дважды в сутки.",  # noqa: RUF001 - these are the letters meant
        "Η έλξη της σελήνης ανυψώνει το νερό της θάλασσας και στις δύο πλευρές της γης δύο φορές την ημέρα.",  # noqa: RUF001 - these are the letters meant
        "月の引力が地球の両側で海水を持ち上げるため、どの海岸でも一日に二回満潮になります。",
        "달의 인력이 지구 양쪽에서 바닷물을 끌어올리기 때문에 해안마다 하루에 두 번 만조가 됩니다.",
        "ترفع جاذبية القمر مياه البحر على جانبي الأرض، ولذلك يحدث المد مرتين في اليوم على كل ساحل.",
        "चंद्रमा का गुरुत्वाकर्षण पृथ्वी के दोनों ओर समुद्र के पानी को ऊपर उठाता है, इसलिए ज्वार दो बार आता है।",
        "แรงดึงดูดของดวงจันทร์ทำให้น้ำทะเลนูนขึ้นทั้งสองด้านของโลก ชายฝั่งทุกแห่งจึงมีน้ำขึ้นวันละสองครั้ง",
    ],
    ids=["fr", "es", "nl", "pl", "fi", "ru", "el", "ja", "ko", "ar", "hi", "th"],
)
def test_other_languages_are_foreign(english, text):
    tokenizer, known = english
    assert language.measure(tokenizer, [text]).foreign_mask(known).tolist() == [True]


@pytest.mark.parametrize("name", ["german", "chinese"])
def test_pools_in_another_language_are_a_problem_for_the_embedded_model(name):
    with Reranker.load() as reranker:
        findings = {finding.name: finding for finding in diagnose(reranker, list(read_pools(POOLS / f"{name}.jsonl")))}
    assert findings["foreign-language"].severity == "problem"
    assert findings["foreign-language"].value > 0.9


def test_a_share_of_foreign_texts_is_a_warning():
    foreign, own = list(read_pools(POOLS / "german.jsonl"))[:3], Certificate.read(Artifact.find(None)).pools
    with Reranker.load() as reranker:
        mixed = [*foreign, CandidatePool(own[0].query, own[0].documents * 2)]
        [finding] = [finding for finding in diagnose(reranker, mixed) if finding.name == "foreign-language"]
    assert finding.severity == "warning"
    assert 0.2 < finding.value < 0.5


@pytest.mark.parametrize(
    "text", ["", "🌊" * 40, "❤️" * 60, "12.5 99 1024 " * 20, "?!… --- ***" * 20, "short text", "\u0301" * 90], ids=ascii
)
def test_texts_with_hardly_any_letters_are_not_judged(english, text):
    pieces = language.measure(english[0], [text])
    assert len(pieces.tokens) == 0
    assert np.isnan(pieces.bytes_per_token())
    assert pieces.foreign_mask(4.0).tolist() == []


def test_short_texts_of_a_pool_are_judged_together():
    titles = [f"Fahrradschlauch {size} Zoll" for size in (12, 16, 20, 24, 26, 28)]
    with Reranker.load() as reranker:
        findings = diagnose(reranker, [CandidatePool("Fahrradschlauch", titles)])
    assert "foreign-language" in [finding.name for finding in findings]


def test_letters_keep_their_marks():
    assert language.letters_of("a1b_c-d") == "a b c d"
    assert language.letters_of("ज्वार e\u0301!") == "ज्वार e\u0301 "
    assert language.letters_of("3.14 🌊\ufe0f") == ""


def test_figures_are_those_of_the_tokens(english):
    tokenizer = english[0]
    text = "tides " * 8 + "潮"
    pieces = language.measure(tokenizer, [text, "short", text * 2])
    encoded = [tokenizer.encode("", [language.letters_of(each)]) for each in ("", text, text * 2)]
    assert pieces.letters.tolist() == [43, 86]
    assert pieces.tokens.tolist() == [int(each.lengths[0] - encoded[0].lengths[0]) for each in encoded[1:]]
    share = [float(np.mean(each.ids[2:-1] == tokenizer.unknown)) for each in encoded[1:]]
    assert pieces.unknown == pytest.approx(share)


def test_a_sample_is_spread_over_all_texts(english, monkeypatch):
    monkeypatch.setattr(language, "SAMPLED_TEXTS", 10)
    half = ["the moon pulls the water of every ocean " * 2] * 50 + ["Притяжение Луны поднимает морскую воду " * 2] * 50
    foreign = language.measure(english[0], half).foreign_mask(english[1])
    assert (len(foreign), foreign.sum()) == (10, 5)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"], ids=["WordPiece", "byte-level BPE", "Unigram"])
def test_the_unknown_token_of_every_kind_of_tokenizer(family):
    library = tiny.backend(family)
    tokenizer = PairTokenizer(library.to_str().encode(), 64)
    if family == "roberta":
        assert tokenizer.unknown is None  # its bytes cover every text
    else:
        [place] = np.flatnonzero(tokenizer.encode("", ["潮"]).ids == tokenizer.unknown)
        assert library.id_to_token(tokenizer.unknown) in ("[UNK]", "<unk>")
        assert place > 0
