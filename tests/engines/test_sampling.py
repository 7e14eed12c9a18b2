"""Sampling of reasoning tokens under transformers."""

import pytest
import torch
from PIL import Image

from roadwork_serve.engines.sampling import TokenSampler
from roadwork_serve.engines.transformers import VisionLanguageEngine
from roadwork_serve.engines.vlm import Prompt
from roadwork_serve.profiles.engine_spec import SamplingSettings
from tests import untrained

CPU = torch.device("cpu")
LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -8.0])
NOTHING = torch.tensor([], dtype=torch.long)


def drawn(settings: SamplingSettings, count: int = 4000, written: torch.Tensor = NOTHING) -> torch.Tensor:
    """Return the share of each token in a number of draws."""
    sampler = TokenSampler(settings, CPU)
    tokens = torch.tensor([int(sampler(LOGITS, written).argmax()) for _ in range(count)])
    return torch.bincount(tokens, minlength=len(LOGITS)) / count


def test_tokens_are_drawn_from_the_softmax_at_the_temperature() -> None:
    assert drawn(SamplingSettings(temperature=1.0)).tolist() == pytest.approx(LOGITS.softmax(-1).tolist(), abs=0.03)
    assert drawn(SamplingSettings(temperature=2.0)).tolist() == pytest.approx(
        (LOGITS / 2).softmax(-1).tolist(), abs=0.03
    )


def test_top_k_and_top_p_leave_out_unlikely_tokens() -> None:
    two = LOGITS[:2].softmax(-1).tolist()
    assert drawn(SamplingSettings(temperature=1.0, top_k=2)).tolist() == pytest.approx([*two, 0, 0, 0], abs=0.03)
    # The most likely token has 0.64 and the next 0.24: 0.7 takes both, 0.6 the first alone.
    assert drawn(SamplingSettings(temperature=1.0, top_p=0.7)).tolist() == pytest.approx([*two, 0, 0, 0], abs=0.03)
    assert drawn(SamplingSettings(temperature=1.0, top_p=0.6), 50).tolist() == [1, 0, 0, 0, 0]


def test_a_presence_penalty_makes_written_tokens_less_likely() -> None:
    penalised = LOGITS - torch.tensor([1.5, 0, 0, 0, 0])
    found = drawn(SamplingSettings(temperature=1.0, presence_penalty=1.5), written=torch.tensor([0, 0, 0]))
    assert found.tolist() == pytest.approx(penalised.softmax(-1).tolist(), abs=0.03)


def test_reasoning_depends_on_the_seed_and_on_nothing_else() -> None:
    prompts = [Prompt("Is there?", (Image.new("RGB", (160, 96), colour),)) for colour in ("orange", "grey")]

    def reasoning(**settings: float) -> list[str | None]:
        engine.sampling = SamplingSettings(temperature=1.0, **settings)  # type: ignore[arg-type]
        return [answer.reasoning for answer in engine.think(engine.encode(prompts, thinking=True), 12)]

    engine = VisionLanguageEngine(str(untrained.vlm()))
    first = reasoning(seed=1)
    assert reasoning(seed=1) == first != reasoning(seed=2)
    prompts = prompts[:1]
    assert reasoning(seed=1) == first[:1]
    engine.sampling = None
    (greedy,) = engine.think(engine.encode(prompts, thinking=True), 12)
    assert greedy.reasoning != first[0]
