import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.stages.sign_phrases import IGNORED_PHRASES, PHRASES, SHORT_PHRASES
from roadwork_serve.stages.sign_text import PRECEDENCE, sign_meaning
from roadwork_serve.testbed.scenes.signs import PHRASES as DRAWN_PHRASES

SIGNS = {
    "begin": [
        "ROAD WORK AHEAD", "Roadworks", "WORK ZONE", "CONSTRUCTION", "CONSTRUCTION / NEXT 5 MILES", "UTILITY WORK",
        "ONE LANE / ROAD / AHEAD", "BE PREPARED / TO STOP", "ROAD WORK 500 FT", "BAUSTELLE", "Travaux", "OBRAS",
        "LAVORI IN CORSO", "WERKZAAMHEDEN", "ROAD / WORK / AHEAD", "EN OBRAS", "RIGHT LANE ENDS / ROAD WORK AHEAD",
        "PAVEMENT ENDS / ROAD WORK",
    ],
    "closure": [
        "ROAD CLOSED", "LANE CLOSED AHEAD", "RIGHT LANE / CLOSED", "SIDEWALK CLOSED", "ROAD AHEAD CLOSED",
        "BRIDGE CLOSED", "LANE ENDS / ROAD CLOSED", "Route barrée", "POLICE ROAD CLOSED", "Straße gesperrt",
        "ROAD CLOSED / DEAD END",
    ],
    "detour": [
        "DETOUR", "DETOUR AHEAD", "Diversion", "DIVERTED / TRAFFIC", "Umleitung", "DÉVIATION", "Desvío", "OMLEIDING",
    ],
    "worker": ["LANE ENDS / MEN AT WORK", "WORKERS AHEAD", "WORKERS", "MEN WORKING", "MEN AT WORK", "FLAGGER AHEAD"],
    "end": [
        "END ROAD WORK", "END / ROAD / WORK", "END CONSTRUCTION", "ROADWORK ENDS", "END DETOUR", "END OF ROADWORKS",
        "END WORK ZONE", "BAUSTELLENENDE", "Ende Baustelle", "FIN DE TRAVAUX", "FIN DE OBRAS", "FINE LAVORI",
        "Einde werkzaamheden",
    ],
    "neutral": [
        "", "AHEAD", "TRAFFIC / CALMING / AHEAD", "SPEED LIMIT 25", "STOP", "ONE WAY", "SCHOOL AHEAD", "END", "ROAD",
        "WORK", "CLOSED", "DEAD END", "LANE ENDS", "12345", "交通",
    ],
}  # fmt: skip
SLIPS = {
    "begin": ["ROADWORKAHEAD", "R0AD WORK", "R0AD WORX", "ROAD W0RKS AHEAD", "OAD WORK AHEAD", "CONSTRUCT ION AHEAD"],
    "closure": ["BOAD CLOSED", "ROAD CL0SED", "ROAD CIOSED", "ROADCLOSED", "R1GHT LANE CLOSED"],
    "detour": ["DET0UR", "DE TOUR", "DETOURAHEAD", "D1VERSION"],
    "worker": ["W0RKERS AHEAD", "MENATWORK", "FLA66ER AHEAD"],
    "end": ["ENDROADWORK", "END R0AD WORX", "ENDCONSTRUCTION", "END ROADWORK"],
}
NOT_SLIPS = [
    "ROAD WORTH", "ROADWORTHY", "ROADSIDE", "ROADSHOW", "ROAD FORK AHEAD", "WORKSHOP", "WOODWORK", "HOMEWORK",
    "NETWORK", "TEAMWORK", "DIVISION", "INSTRUCTION", "DEVOUR", "FRIEND", "WEEKEND", "SPEND", "BEND", "COBRAS",
]  # fmt: skip


def cases(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(sign, meaning) for meaning, signs in table.items() for sign in signs]


@pytest.mark.parametrize(("sign", "meaning"), cases(SIGNS))
def test_signs_have_their_meaning(sign: str, meaning: str) -> None:
    assert sign_meaning(sign.split(" / ")) == meaning


@pytest.mark.parametrize(("sign", "meaning"), cases(SLIPS))
def test_ocr_errors_are_tolerated(sign: str, meaning: str) -> None:
    assert sign_meaning([sign]) == meaning


@pytest.mark.parametrize("word", NOT_SLIPS)
def test_other_words_are_not_taken_for_ocr_errors(word: str) -> None:
    assert sign_meaning([word]) == "neutral"
    assert sign_meaning([word, "AHEAD"]) == "neutral"


@pytest.mark.parametrize(
    "words",
    [
        "CONSTRUCTION LOANS", "SMITH CONSTRUCTION", "SMITH CONSTRUCTION CO", "ROAD WORK APP", "WORKERS UNITED BANK",
        "INJURED IN A WORK ZONE", "WORK ZONE CLOTHING", "DETOUR SHOP", "MINISTERIO DE OBRAS PUBLICAS",
    ],
)  # fmt: skip
def test_firms_and_advertising_are_neutral(words: str) -> None:
    assert sign_meaning(words.split()) == "neutral"


@pytest.mark.parametrize("words", ["ROADWORKS DUE TO START HERE", "BE PREPARED TO STOP WHEN FLASHING"])
def test_announced_works_and_signals_are_neutral(words: str) -> None:
    assert sign_meaning([words]) == "neutral"


def test_an_end_sign_outweighs_road_work_on_the_same_sign() -> None:
    assert sign_meaning(["ROAD WORK AHEAD", "END ROAD WORK"]) == "end"


@pytest.mark.parametrize("before", ["DEAD END", "BEND", "WEEKEND"])
def test_only_the_word_end_means_the_end_of_works(before: str) -> None:
    assert sign_meaning([before, "ROAD WORK AHEAD"]) == "begin"


@pytest.mark.parametrize(("kind", "lines"), [(kind, lines) for kind, signs in DRAWN_PHRASES.items() for lines in signs])
def test_agrees_with_the_signs_of_the_test_track(kind: str, lines: tuple[str, ...]) -> None:
    assert sign_meaning(lines) == kind.removeprefix("sign_")


@pytest.mark.parametrize(
    ("phrase", "meaning"),
    sorted(
        {
            (phrase, meaning)
            for tables in (PHRASES, SHORT_PHRASES)
            for table in tables.values()
            for meaning, phrases in table.items()
            for phrase in phrases
        }
    ),
)
def test_every_phrase_is_recognized_on_one_or_more_lines(phrase: str, meaning: str) -> None:
    assert sign_meaning([phrase]) == sign_meaning(phrase.lower().split()) == meaning
    assert sign_meaning([f"{phrase} AHEAD"]) == meaning
    assert sign_meaning([f"{phrase} {IGNORED_PHRASES[0]}"]) == "neutral"


@given(st.lists(st.text(alphabet=string.printable + "ßÉ交", max_size=20), max_size=6))
def test_any_text_has_a_meaning(lines: list[str]) -> None:
    assert sign_meaning(lines) in {*PRECEDENCE, "neutral"}


@given(
    st.lists(
        st.sampled_from("AHEAD STOP LANE SLOW SCHOOL 25 EXIT NORTH MAIN PARKING ONLY NO LEFT TURN KEEP RIGHT".split())
    )
)
def test_everyday_words_never_add_up_to_works(words: list[str]) -> None:
    assert sign_meaning(words) == "neutral"
