"""The meaning of the text of a sign for the task, which is active road work by default."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from rapidfuzz.distance import Levenshtein

from roadwork_serve.profiles.task import SignMeaning, SignVocabulary, default_task
from roadwork_serve.stages.sign_phrases import IGNORED_PHRASES, PHRASES, SHORT_PHRASES

Meaning = SignMeaning | Literal["neutral"]

PRECEDENCE: tuple[SignMeaning, ...] = ("end", "worker", "closure", "detour", "begin")  # if a sign has several
BESIDE_SHORT_PHRASES = (
    "AHEAD AREA CAUTION DANGER DE DELAYS END ENDS EXPECT FIN FT KM M MI MILE MILES NEXT OF SLOW THE YDS"
)
ENDS_BEFORE = "ENDING ENDE END EINDE FIN"
ENDS_AFTER = "COMPLETED COMPLETE ENDING ENDED ENDS ENDE END EINDE"
LINKS = "OF THE DES DEI DE"
NOT_ENDS = "DEAD WEEK NO"  # a dead end ends no works
ENDED = "ENDS ENDED"  # refers to the words before it: LANE ENDS, ROAD WORK AHEAD
# Characters that OCR confuses: common confusions are mapped to one letter, others count as one allowed error.
CANONICAL = str.maketrans("0Q1L|5862", "OOIIISBGZ")
LOOKALIKES = frozenset(
    frozenset(pair)
    for pair in "KX KR KH BR BP BD BS BE PR OC OD OU CG EF FP HN HM MN NW WV VY UV AR AH TI TY TF IJ SZ".split()
)
ONE_ERROR_LETTERS = 6  # shorter phrases allow no error, since it could make another word
TWO_ERROR_LETTERS = 14  # phrases of this length allow two errors
MAX_PHRASE_TOKENS = 8


class SignPhrases:
    """The phrases of a vocabulary, ready for comparison."""

    def __init__(self, vocabulary: SignVocabulary) -> None:
        self._by_length: dict[int, list[_KnownPhrase]] = {}
        tables = [(PHRASES.get(language, {}), False) for language in vocabulary.languages]
        tables += [(SHORT_PHRASES.get(language, {}), True) for language in vocabulary.languages]
        for table, short in (*tables, (vocabulary.phrases, False)):
            for meaning, phrases in table.items():
                for phrase in phrases:
                    self._add(meaning, phrase, short)
        self._ignored = [_tokens(words) for words in (*IGNORED_PHRASES, *vocabulary.ignored)]

    def meaning(self, lines: Sequence[str]) -> Meaning:
        """Return the meaning of a sign from its lines, top to bottom.

        An end sign takes precedence over the works it names (END ROAD WORK). Misread letters and wrong word boundaries
        are tolerated. Everything else is neutral, AHEAD alone included.
        """
        tokens = _tokens(" ".join(lines))
        if any(_contains(tokens, phrase) for phrase in self._ignored):
            return "neutral"
        found: list[Meaning] = [m for start in range(len(tokens)) for m in self._meanings_from(tokens, start)]
        return min(found, key=PRECEDENCE.index) if found else "neutral"

    def _add(self, meaning: SignMeaning, phrase: str, short: bool) -> None:
        """Add a phrase, also followed by AHEAD."""
        letters = "".join(_tokens(phrase))
        errors = (len(letters) >= ONE_ERROR_LETTERS) + (len(letters) >= TWO_ERROR_LETTERS)
        for whole in (letters, letters + "AHEAD"):
            known, same = _KnownPhrase(whole, errors, meaning, short), self._by_length.setdefault(len(whole), [])
            if known not in same:
                same.append(known)

    def _meanings_from(self, tokens: list[str], start: int) -> list[SignMeaning]:
        """Return the meanings of phrases that start at this word, whatever the word boundaries."""
        found: list[SignMeaning] = []
        may_end = tokens[start] not in _ENDED and (not start or tokens[start - 1] not in _NOT_ENDS)
        for stop in range(start + 1, min(start + MAX_PHRASE_TOKENS, len(tokens)) + 1):
            letters = "".join(tokens[start:stop])
            alone = all(t in _BESIDE_SHORT_PHRASES or t.isdigit() for t in (*tokens[:start], *tokens[stop:]))
            ended = [letters[len(end) :] for end in _ENDS_BEFORE if may_end and letters.startswith(end)]
            ended += [letters[: -len(end)] for end in _ENDS_AFTER if letters.endswith(end)]
            if any(self._match(rest, alone) for rest in ended):
                found.append("end")
            elif meaning := self._match(letters, alone):
                found.append(meaning)
        return found

    def _match(self, letters: str, alone: bool) -> SignMeaning | None:
        """Return the meaning of a phrase written without spaces; None if it is not known."""
        near = (p for n in range(-2, 3) for p in self._by_length.get(len(letters) + n, ()) if alone or not p.short)
        return next((phrase.meaning for phrase in near if _is_close(letters, phrase)), None)


@cache
def default_phrases() -> SignPhrases:
    """Return the phrases of the default task, active road work."""
    return SignPhrases(default_task().signs)


def sign_meaning(lines: Sequence[str]) -> Meaning:
    """Return the meaning of a sign for active road work; see `SignPhrases`."""
    return default_phrases().meaning(lines)


def _tokens(text: str) -> list[str]:
    """Split text into upper-case words without accents, with easily confused letters mapped to one."""
    plain = unicodedata.normalize("NFKD", text.upper())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return [t if t.isdigit() else t.translate(CANONICAL) for t in re.findall(r"[A-Z0-9|]+", plain)]


def _contains(tokens: list[str], phrase: list[str]) -> bool:
    return any(tokens[i : i + len(phrase)] == phrase for i in range(len(tokens)))


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
    meaning: SignMeaning
    #: True if it counts only without other text.
    short: bool


_BESIDE_SHORT_PHRASES, _NOT_ENDS = frozenset(_tokens(BESIDE_SHORT_PHRASES)), frozenset(_tokens(NOT_ENDS))
_ENDED = frozenset(_tokens(ENDED))
_ENDS_BEFORE = tuple(end + link for end in _tokens(ENDS_BEFORE) for link in ("", *_tokens(LINKS)))
_ENDS_AFTER = tuple(_tokens(ENDS_AFTER))
