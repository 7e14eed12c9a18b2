"""Words on a sign -> what they say of active road work."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rapidfuzz.distance import Levenshtein

Meaning = Literal["begin", "closure", "detour", "worker", "end", "neutral"]

# Wording: MUTCD 2023 part 6 (temporary traffic control), the UK's Traffic Signs Manual chapter 8, and the
# common boards of German, French, Spanish, Italian and Dutch works.
PHRASES: dict[Meaning, tuple[str, ...]] = {
    "worker": (
        "MEN AT WORK", "MEN WORKING", "CREW WORKING", "PEOPLE WORKING", "WORKERS AHEAD", "WORKERS IN ROAD",
        "WORKERS ON ROAD", "WORKERS PRESENT", "FLAGGER", "FLAG PERSON", "SURVEY CREW", "HOMBRES TRABAJANDO",
    ),
    "closure": (
        "ROAD CLOSED", "ROAD AHEAD CLOSED", "LANE CLOSED", "LANES CLOSED", "LANE AHEAD CLOSED", "STREET CLOSED",
        "SIDEWALK CLOSED", "FOOTPATH CLOSED", "FOOTWAY CLOSED", "PAVEMENT CLOSED", "CYCLEWAY CLOSED",
        "BIKE LANE CLOSED", "SHOULDER CLOSED", "BRIDGE CLOSED", "RAMP CLOSED", "EXIT CLOSED", "STRASSE GESPERRT",
        "GEHWEG GESPERRT", "VOLLSPERRUNG", "ROUTE BARREE", "RUE BARREE", "CARRETERA CORTADA", "CALLE CORTADA",
        "STRADA CHIUSA", "WEG AFGESLOTEN",
    ),
    "detour": (
        "DETOUR", "DIVERSION", "DIVERTED TRAFFIC", "UMLEITUNG", "DEVIATION", "DESVIO", "DEVIAZIONE", "OMLEIDING",
    ),
    "begin": (
        "ROAD WORK", "WORK ZONE", "UTILITY WORK", "SHOULDER WORK", "BRIDGE WORK", "STREET WORK", "WORKS ACCESS",
        "WORKS TRAFFIC", "ROAD CONSTRUCTION", "UNDER CONSTRUCTION", "CONSTRUCTION AHEAD", "CONSTRUCTION ZONE",
        "ONE LANE ROAD AHEAD", "BE PREPARED TO STOP", "BAUSTELLE", "BAUARBEITEN", "STRASSENARBEITEN", "TRAVAUX",
        "EN OBRAS", "ZONA DE OBRAS", "PELIGRO OBRAS", "LAVORI IN CORSO", "WERKZAAMHEDEN", "WERK IN UITVOERING",
    ),
    "end": ("BAUSTELLENENDE", "UMLEITUNGSENDE", "FINE LAVORI", "FINE DEVIAZIONE"),
}  # fmt: skip
# Words that say it only when hardly anything else is written: SMITH CONSTRUCTION is a firm.
BARE: dict[Meaning, tuple[str, ...]] = {
    "worker": ("WORKERS",),
    "begin": ("CONSTRUCTION", "WORK AHEAD", "OBRAS"),
}
RANK: tuple[Meaning, ...] = ("end", "worker", "closure", "detour", "begin")  # what counts when several are said
AROUND_BARE = "AHEAD AREA CAUTION DANGER DE DELAYS END ENDS EXPECT FIN FT KM M MI MILE MILES NEXT OF SLOW THE YDS"
ENDS_BEFORE = "ENDING ENDE END EINDE FIN"
ENDS_AFTER = "COMPLETED COMPLETE ENDING ENDED ENDS ENDE END EINDE"
LINKS = "OF THE DES DEI DE"
NOT_ENDS = "DEAD WEEK NO"  # a dead end ends no works
ENDED = "ENDS ENDED"  # said of what stands before: LANE ENDS, ROAD WORK AHEAD
# Advertising, what is always there, and works that have not begun.
UNSAID = (
    "LOAN", "LOANS", "APP", "INSURANCE", "LAWYER", "LAWYERS", "ATTORNEY", "INJURY", "INJURED", "SALE", "HIRE",
    "RENTAL", "RENTALS", "JOBS", "CAREERS", "HIRING", "BOOTS", "WEAR", "CLOTHING", "SHOP", "STORE", "OUTLET",
    "WHEN FLASHING", "DUE TO START", "STARTS", "STARTING", "COMING SOON", "WILL BE",
)  # fmt: skip

# What a reader takes for one another: made the same when it is common, forgiven once in a saying when it is not.
SAME = str.maketrans("0Q1L|5862", "OOIIISBGZ")
LOOKALIKES = frozenset(
    frozenset(pair)
    for pair in "KX KR KH BR BP BD BS BE PR OC OD OU CG EF FP HN HM MN NW WV VY UV AR AH TI TY TF IJ SZ".split()
)
SHORTEST_FORGIVEN = 6  # letters: in a shorter saying a slip makes another word
TWICE_FORGIVEN = 14  # letters from which on two slips still make the same saying
LONGEST_TOKENS = 8


def sign_meaning(lines: Sequence[str]) -> Meaning:
    """What a sign says, given its lines from top to bottom.

    An end sign outweighs the works it names (END ROAD WORK); a word or two may be misread, run together or torn
    apart; everything that is not about works now is neutral, AHEAD alone included.
    """
    tokens = _tokens(" ".join(lines))
    if any(_holds(tokens, saying) for saying in _UNSAID):
        return "neutral"
    said: list[Meaning] = [m for start in range(len(tokens)) for m in _said_from(tokens, start)]
    return min(said, key=RANK.index) if said else "neutral"


def _tokens(text: str) -> list[str]:
    """Upper-case words without accents, in which letters often taken for one another are the same."""
    plain = unicodedata.normalize("NFKD", text.upper())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return [t if t.isdigit() else t.translate(SAME) for t in re.findall(r"[A-Z0-9|]+", plain)]


def _holds(tokens: list[str], saying: list[str]) -> bool:
    return any(tokens[i : i + len(saying)] == saying for i in range(len(tokens)))


def _said_from(tokens: list[str], start: int) -> list[Meaning]:
    """Meanings of the sayings that begin at this word, however the words were parted."""
    said: list[Meaning] = []
    may_end = tokens[start] not in _ENDED and (not start or tokens[start - 1] not in _NOT_ENDS)
    for stop in range(start + 1, min(start + LONGEST_TOKENS, len(tokens)) + 1):
        letters = "".join(tokens[start:stop])
        bare = all(t in _AROUND_BARE or t.isdigit() for t in (*tokens[:start], *tokens[stop:]))
        ended = [letters[len(end) :] for end in _ENDS_BEFORE if may_end and letters.startswith(end)]
        ended += [letters[: -len(end)] for end in _ENDS_AFTER if letters.endswith(end)]
        if any(_match(rest, bare) for rest in ended):
            said.append("end")
        elif max_concurrent := _match(letters, bare):
            said.append(max_concurrent)
    return said


def _match(letters: str, bare: bool) -> Meaning | None:
    """The meaning of a saying written without spaces."""
    likely = (s for n in range(-2, 3) for s in _BY_LENGTH.get(len(letters) + n, ()) if bare or not s.bare)
    return next((saying.meaning for saying in likely if _close(letters, saying)), None)


def _close(letters: str, saying: "_Saying") -> bool:
    """Whether a reader may have read the one for the other."""
    if Levenshtein.distance(letters, saying.letters, score_cutoff=saying.slips) > saying.slips:
        return False
    return all(
        op.tag != "replace" or frozenset((letters[op.src_pos], saying.letters[op.dest_pos])) in LOOKALIKES
        for op in Levenshtein.editops(letters, saying.letters)
    )


@dataclass(frozen=True, slots=True)
class _Saying:
    """A saying without spaces. slips: how many letters may be misread. bare: nothing else may stand with it."""

    letters: str
    slips: int
    meaning: Meaning
    bare: bool


def _by_length() -> dict[int, list[_Saying]]:
    """Every saying without spaces, also with AHEAD behind it, by its number of letters."""
    known: dict[int, list[_Saying]] = {}
    for table in (PHRASES, BARE):
        for meaning, sayings in table.items():
            for letters in ("".join(_tokens(saying)) for saying in sayings):
                slips = (len(letters) >= SHORTEST_FORGIVEN) + (len(letters) >= TWICE_FORGIVEN)
                for whole in (letters, letters + "AHEAD"):
                    known.setdefault(len(whole), []).append(_Saying(whole, slips, meaning, table is BARE))
    return known


_BY_LENGTH = _by_length()
_UNSAID = tuple(_tokens(words) for words in UNSAID)
_AROUND_BARE, _NOT_ENDS = frozenset(_tokens(AROUND_BARE)), frozenset(_tokens(NOT_ENDS))
_ENDED = frozenset(_tokens(ENDED))
_ENDS_BEFORE = tuple(end + link for end in _tokens(ENDS_BEFORE) for link in ("", *_tokens(LINKS)))
_ENDS_AFTER = tuple(_tokens(ENDS_AFTER))
