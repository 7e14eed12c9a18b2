"""What is asked of a vision language model, whatever runs it, and how P(YES) is read from its answer."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from roadwork_serve.errors import ModelError

YES, NO = ("YES", "Yes", "yes"), ("NO", "No", "no")
MAX_LOGIT = 16.0  # logits are clamped here: beyond, the arithmetic of half precision speaks, not the model


@dataclass(frozen=True)
class Prompt:
    """A question about one image, or about one clip when there are timestamps (seconds, one a frame)."""

    question: str
    images: tuple[Image.Image, ...]
    timestamps_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class VlmAnswer:
    """logit: log P(YES) - log P(NO). other_token_mass: mass on words that are neither. tokens: how many were written.

    batch_ms: preparing the inputs, compute_ms: the model; both of the batch in which the prompt was answered.
    coarse: only the chosen word is known, not how likely it was.
    """

    logit: float
    other_token_mass: float
    thought: str | None = None
    tokens: int = 1
    preprocess_ms: float = 0.0
    compute_ms: float = 0.0
    from_choice: bool = False


class LanguageEngine(Protocol):
    """What the stages ask of an engine."""

    async def ask(self, prompts: Sequence[Prompt], thought_tokens: int = 0) -> list[VlmAnswer]:
        """One answer a prompt, in order. thought_tokens: how long it may think first; 0 wants the answer at once."""
        ...

    async def check(self) -> None:
        """Raises when the engine has died."""
        ...

    async def sleep(self) -> None:
        """Give the card back. Only between prompts."""
        ...

    async def wake(self) -> None:
        """Take the card again."""
        ...

    async def aclose(self) -> None:
        """Let go of the model."""
        ...


async def gather_answers(asked: Iterable[Coroutine[Any, Any, VlmAnswer]]) -> list[VlmAnswer]:
    """The answers, in order. Raises the first error, once none of the others is still at work."""
    done = await asyncio.gather(*asked, return_exceptions=True)
    for each in done:
        if isinstance(each, BaseException):
            raise each
    return [each for each in done if isinstance(each, VlmAnswer)]


def spellings(encode: Callable[[str], list[int]], words: Sequence[str]) -> list[int]:
    """Token ids of the words, with and without a leading space, that are one token. Raises ModelError for none."""
    spelt = [encode(space + word) for word in words for space in ("", " ")]
    single = sorted({ids[0] for ids in spelt if len(ids) == 1})
    if not single:
        raise ModelError(
            f"None of {', '.join(words)} is a single token of this model, so it cannot say YES or NO: name another."
        )
    return single


def from_logprobs(yes: Sequence[float], no: Sequence[float]) -> VlmAnswer:
    """The answer whose spellings of YES and NO have these natural log-probabilities.

    Raises ModelError when they are no numbers.
    """
    of_yes, of_no = (float(np.logaddexp.reduce(part)) for part in (yes, no))
    if math.isnan(of_yes - of_no):
        raise ModelError("the model's answer is no number: set dtype: bfloat16, or float32 on a CPU")
    other_token_mass = min(1.0, max(0.0, 1.0 - math.exp(of_yes) - math.exp(of_no)))
    return VlmAnswer(min(MAX_LOGIT, max(-MAX_LOGIT, of_yes - of_no)), other_token_mass)
