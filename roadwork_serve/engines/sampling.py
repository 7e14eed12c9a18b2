"""Sampling of reasoning tokens under transformers, with a seed for each prompt."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from roadwork_serve.profiles.engine_spec import SamplingSettings


class TokenSampler:
    """Samples the tokens of one prompt's reasoning. The temperature is above 0.

    A prompt gets the same tokens in any batch, because each has a random generator of its own.
    """

    def __init__(self, settings: "SamplingSettings", device: torch.device) -> None:
        self._settings = settings
        self._random = torch.Generator(device).manual_seed(settings.seed)

    def __call__(self, logits: Tensor, written: Tensor) -> Tensor:
        """Return logits, [vocabulary], whose largest entry is the chosen token.

        Args:
            logits: Logits of the model, [vocabulary].
            written: Tokens of the reasoning so far.
        """
        settings = self._settings
        logits = logits.float().clone()
        logits[written.unique()] -= settings.presence_penalty
        logits = _most_likely(logits / settings.temperature, settings.top_k, settings.top_p)
        # The Gumbel-max trick: the largest of logits with Gumbel noise is a sample from their softmax.
        noise = torch.empty_like(logits).exponential_(generator=self._random)
        return logits - noise.log()


def _most_likely(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Return logits with -inf outside the top k, and outside the most likely of those with a total mass of top_p."""
    order = logits.argsort(descending=True)[: top_k or None]
    mass = logits[order].softmax(-1).cumsum(-1)
    before = torch.cat([mass.new_zeros(1), mass[:-1]])
    kept = order[before < top_p]
    return torch.full_like(logits, -math.inf).index_copy(0, kept, logits[kept])
