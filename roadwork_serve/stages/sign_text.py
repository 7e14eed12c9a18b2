"""The meaning of the text of a sign for active road work."""

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
# Phrases that count only when the sign has hardly any other text: SMITH CONSTRUCTION is a company.
SHORT_PHRASES: dict[Meaning, tuple[str, ...]] = {
    "worker": ("WORKERS",),
    "begin": ("CONSTRUCTION", "WORK AHEAD", "OBRAS"),
}
PRECEDENCE: tuple[Meaning, ...] = ("end", "worker", "closure", "detour", "begin")  # if a sign has several
BESIDE_SHORT_PHRASES = (
    "AHEAD AREA CAUTION DANGER DE DELAYS END ENDS EXPECT FIN FT KM M MI MILE MILES NEXT OF SLOW THE YDS"
)
ENDS_BEFORE = "ENDING ENDE END EINDE FIN"
ENDS_AFTER = "COMPLETED COMPLETE ENDING ENDED ENDS ENDE END EINDE"
LINKS = "OF THE DES DEI DE"
NOT_ENDS = "DEAD WEEK NO"  # a dead end ends no works
ENDED = "ENDS ENDED"  # refers to the words before it: LANE ENDS, ROAD WORK AHEAD
# Advertising, permanent signs, and works that have not begun.
IGNORED_PHRASES = (
    "LOAN", "LOANS", "APP", "INSURANCE", "LAWYER", "LAWYERS", "ATTORNEY", "INJURY", "INJURED", "SALE", "HIRE",
    "RENTAL", "RENTALS", "JOBS", "CAREERS", "HIRING", "BOOTS", "WEAR", "CLOTHING", "SHOP", "STORE", "OUTLET",
    "WHEN FLASHING", "DUE TO START", "STARTS", "STARTING", "COMING SOON", "WILL BE",
)  # fmt: skip

# Characters that OCR confuses: common confusions are mapped to one letter, others count as one allowed error.
CANONICAL = str.maketrans("0Q1L|5862", "OOIIISBGZ")
LOOKALIKES = frozenset(
    frozenset(pair)
    for pair in "KX KR KH BR BP BD BS BE PR OC OD OU CG EF FP HN HM MN NW WV VY UV AR AH TI TY TF IJ SZ".split()
)
ONE_ERROR_LETTERS = 6  # shorter phrases allow no error, since it could make another word
TWO_ERROR_LETTERS = 14  # phrases of this length allow two errors
MAX_PHRASE_TOKENS = 8


def sign_meaning(lines: Sequence[str]) -> Meaning:
    """Return the meaning of a sign from its lines, top to bottom.

    An end sign takes precedence over the works it names (END ROAD WORK). Misread letters and wrong word boundaries are
    tolerated. Everything else is neutral, AHEAD alone included.
    """
    tokens = _tokens(" ".join(lines))
    if any(_contains(tokens, phrase) for phrase in _IGNORED):
        return "neutral"
    found: list[Meaning] = [m for start in range(len(tokens)) for m in _meanings_from(tokens, start)]
    return min(found, key=PRECEDENCE.index) if found else "neutral"


def _tokens(text: str) -> list[str]:
    """Split text into upper-case words without accents, with easily confused letters mapped to one."""
    plain = unicodedata.normalize("NFKD", text.upper())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return [t if t.isdigit() else t.translate(CANONICAL) for t in re.findall(r"[A-Z0-9|]+", plain)]


def _contains(tokens: list[str], phrase: list[str]) -> bool:
    return any(tokens[i : i + len(phrase)] == phrase for i in range(len(tokens)))


def _meanings_from(tokens: list[str], start: int) -> list[Meaning]:
    """Return the meanings of phrases that start at this word, whatever the word boundaries."""
    found: list[Meaning] = []
    may_end = tokens[start] not in _ENDED and (not start or tokens[start - 1] not in _NOT_ENDS)
    for stop in range(start + 1, min(start + MAX_PHRASE_TOKENS, len(tokens)) + 1):
        letters = "".join(tokens[start:stop])
        alone = all(t in _BESIDE_SHORT_PHRASES or t.isdigit() for t in (*tokens[:start], *tokens[stop:]))
        ended = [letters[len(end) :] for end in _ENDS_BEFORE if may_end and letters.startswith(end)]
        ended += [letters[: -len(end)] for end in _ENDS_AFTER if letters.endswith(end)]
        if any(_match(rest, alone) for rest in ended):
            found.append("end")
        elif meaning := _match(letters, alone):
            found.append(meaning)
    return found


def _match(letters: str, alone: bool) -> Meaning | None:
    """Return the meaning of a phrase written without spaces; None if it is not known."""
    candidates = (p for n in range(-2, 3) for p in _BY_LENGTH.get(len(letters) + n, ()) if alone or not p.short)
    return next((phrase.meaning for phrase in candidates if _is_close(letters, phrase)), None)


def _is_close(letters: str, phrase: "_KnownPhrase") -> bool:
    """Return True if OCR may have read these letters where the sign has the phrase."""
    if Levenshtein.distance(letters, phrase.letters, score_cutoff=phrase.errors) > phrase.errors:
        return False
    return all(
        op.tag != "replace" or frozenset((letters[op.src_pos], phrase.letters[op.dest_pos])) in LOOKALIKES
        for op in Levenshtein.editops(letters, phrase.letters)
    )


@dataclass(frozen=True, slots=True)
class _KnownPhrase:
    """A known phrase."""

    #: The phrase without spaces.
    letters: str
    #: Number of misread letters that are tolerated.
    errors: int
    meaning: Meaning
    #: True if it counts only without other text.
    short: bool


def _by_length() -> dict[int, list[_KnownPhrase]]:
    """Return all phrases, also followed by AHEAD, by their number of letters."""
    known: dict[int, list[_KnownPhrase]] = {}
    for table in (PHRASES, SHORT_PHRASES):
        for meaning, phrases in table.items():
            for letters in ("".join(_tokens(phrase)) for phrase in phrases):
                errors = (len(letters) >= ONE_ERROR_LETTERS) + (len(letters) >= TWO_ERROR_LETTERS)
                for whole in (letters, letters + "AHEAD"):
                    known.setdefault(len(whole), []).append(
                        _KnownPhrase(whole, errors, meaning, table is SHORT_PHRASES)
                    )
    return known


_BY_LENGTH = _by_length()
_IGNORED = tuple(_tokens(words) for words in IGNORED_PHRASES)
_BESIDE_SHORT_PHRASES, _NOT_ENDS = frozenset(_tokens(BESIDE_SHORT_PHRASES)), frozenset(_tokens(NOT_ENDS))
_ENDED = frozenset(_tokens(ENDED))
_ENDS_BEFORE = tuple(end + link for end in _tokens(ENDS_BEFORE) for link in ("", *_tokens(LINKS)))
_ENDS_AFTER = tuple(_tokens(ENDS_AFTER))
