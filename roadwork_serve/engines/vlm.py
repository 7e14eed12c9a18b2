"""The interface of vision language models, and how P(YES) is computed from log-probabilities."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from roadwork_serve.errors import ModelError

YES, NO = ("YES", "Yes", "yes"), ("NO", "No", "no")
MAX_LOGIT = 16.0  # logits are clamped here: beyond it rounding errors of half precision dominate


@dataclass(frozen=True)
class Prompt:
    """A question about one image or one clip."""

    question: str
    #: One image, or the frames of a clip.
    images: tuple[Image.Image, ...]
    #: Time of each frame of a clip in seconds; empty for an image.
    timestamps_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class VlmAnswer:
    """The answer of a vision language model to one prompt."""

    #: log P(YES) - log P(NO).
    logit: float
    #: Probability mass of tokens other than YES and NO; None if the engine does not compute it.
    other_token_mass: float | None
    #: Text generated before the answer.
    reasoning: str | None = None
    #: Number of generated tokens.
    tokens: int = 1
    #: Time to prepare the inputs of the batch in milliseconds.
    preprocess_ms: float = 0.0
    #: Time of inference on the batch in milliseconds.
    compute_ms: float = 0.0
    #: True if only the chosen answer is known, without probabilities.
    from_choice: bool = False


class LanguageEngine(Protocol):
    """The engine of stages 2B, 3A and 3B."""

    async def ask(self, prompts: Sequence[Prompt], reasoning_tokens: int = 0) -> list[VlmAnswer]:
        """Return an answer for each prompt, in order.

        Args:
            prompts: Prompts, all with an image or all with a clip.
            reasoning_tokens: Largest number of tokens to generate before the answer; 0 answers immediately.
        """
        ...

    async def check(self) -> None:
        """Raise an error if the engine can no longer answer."""
        ...

    async def sleep(self) -> None:
        """Release the memory of the GPU. No prompt may be in flight."""
        ...

    async def wake(self) -> None:
        """Load the model onto the GPU again."""
        ...

    async def aclose(self) -> None:
        """Release the model."""
        ...


async def gather_answers(calls: Iterable[Coroutine[Any, Any, VlmAnswer]]) -> list[VlmAnswer]:
    """Wait for all calls and return the answers in order. Raise the first error once all calls have ended."""
    done = await asyncio.gather(*calls, return_exceptions=True)
    for each in done:
        if isinstance(each, BaseException):
            raise each
    return [each for each in done if isinstance(each, VlmAnswer)]


def spellings(encode: Callable[[str], list[int]], words: Sequence[str]) -> list[int]:
    """Return the ids of the words, with and without a leading space, that are a single token.

    Raises:
        ModelError: None of them is a single token.
    """
    encoded = [encode(space + word) for word in words for space in ("", " ")]
    single = sorted({ids[0] for ids in encoded if len(ids) == 1})
    if not single:
        raise ModelError(
            f"None of {', '.join(words)} is a single token of this model, so it cannot answer YES or NO: use "
            "another one."
        )
    return single


def from_logprobs(yes: Sequence[float], no: Sequence[float]) -> VlmAnswer:
    """Return the answer for these natural log-probabilities of the spellings of YES and NO.

    Raises:
        ModelError: A log-probability is NaN.
    """
    log_yes, log_no = (float(np.logaddexp.reduce(part)) for part in (yes, no))
    if math.isnan(log_yes - log_no):
        raise ModelError("the model returns NaN: set dtype: bfloat16, or float32 on a CPU")
    other_token_mass = min(1.0, max(0.0, 1.0 - math.exp(log_yes) - math.exp(log_no)))
    return VlmAnswer(min(MAX_LOGIT, max(-MAX_LOGIT, log_yes - log_no)), other_token_mass)
