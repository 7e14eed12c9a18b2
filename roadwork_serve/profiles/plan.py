"""`roadwork plan`: what the engines of a profile need of each card, and whether it fits.

Weights are counted on the meta device, so nothing is downloaded. What is quantised, and to what, follows vLLM and
AutoAWQ: the linear layers of the text decoder alone; embeddings, the head and the vision tower stay in 16 bit. Checked
against the published sizes of Qwen3-VL-8B: 16.3 GiB in bf16, 9.9 in fp8, about 6.8 in 4 bit. Activations and the
overhead of a process are estimates, and said to be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import EngineSpec, Profile
from roadwork_serve.profiles.published import on_meta_device

GIB = 2**30
Quantization = Literal["fp8", "awq"]
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
# Bytes a weight. 4 bits have a scale of 16 bits and a zero point of 4 for every 128 weights.
QUANTISED: dict[Quantization, float] = {"fp8": 1.0, "awq": (4 + 20 / 128) / 8}
CONTEXT_GIB = 0.5  # of CUDA, a process: what nvidia-smi shows before anything is loaded
STEP_TOKENS = 8192  # vLLM's default of max_num_batched_tokens on large cards


@dataclass(frozen=True, slots=True)
class Need:
    """What an engine needs of its card, GiB. parameters: how many weights the model has."""

    engine: str
    model: str
    parameters: int
    weights: float
    kv_cache: float
    activations: float
    context: float = CONTEXT_GIB

    @property
    def total(self) -> float:
        return self.weights + self.kv_cache + self.activations + self.context


@dataclass(frozen=True, slots=True)
class Card:
    """gib: its memory. share: how much of it Ray has promised."""

    gib: float
    needs: tuple[Need, ...] = ()
    share: float = 0.0

    @property
    def left(self) -> float:
        return self.gib - sum(need.total for need in self.needs)


def plan(profile: Profile, cards_gib: Sequence[float], quantization: Quantization | None = None) -> list[Card]:
    """The cards with the engines on them, each engine on the first card that has enough of its share left, as listed.

    quantization: reckon as if the decoders of the language models were quantised.
    Raises ConfigError that names the engine to shrink when shares or memory do not add up.
    """
    cards = [Card(gib) for gib in cards_gib]
    for name, users in profile.users().items():
        engine = profile.engines[name]
        if engine.device != "cuda":
            continue
        for _ in range(engine.replicas):
            prompts = sum(spec.max_batch * spec.slots for spec in users.values())
            _place(cards, need_of(name, engine, prompts, quantization), engine.num_gpus)
    for index, card in enumerate(cards):
        if card.left < 0:
            largest = max(card.needs, key=lambda need: need.total)
            raise ConfigError(
                f"card {index} of {card.gib:g} GiB is {-card.left:.1f} GiB short: shrink engines.{largest.engine}, "
                f"which needs {largest.total:.1f} GiB (weights {largest.weights:.1f}, KV cache "
                f"{largest.kv_cache:.1f}), or move an engine to another card"
            )
    return cards


def _place(cards: list[Card], need: Need, share: float) -> None:
    for index, card in enumerate(cards):
        if card.share + share <= 1 + 1e-9:
            cards[index] = Card(card.gib, (*card.needs, need), card.share + share)
            return
    raise ConfigError(
        f"engines.{need.engine}.num_gpus is {share:g} and no card has that much left: lower it, or that of the others"
    )


def need_of(name: str, engine: EngineSpec, prompts: int, quantization: Quantization | None = None) -> Need:
    """What one replica of an engine needs of its card, with so many prompts in work at once."""
    model = on_meta_device(engine.model)
    wide = BYTES[engine.dtype]
    parameters = sum(p.numel() for p in model.parameters())
    text = model.config.get_text_config()
    decodes = hasattr(model, "lm_head") and not model.config.is_encoder_decoder
    quantised = _decoder_weights(model) if decodes and quantization else 0
    narrow = QUANTISED[quantization] if quantization else wide
    weights = ((parameters - quantised) * wide + quantised * narrow) / GIB
    kv = _kv_bytes_a_token(text) * engine.language.context_tokens * prompts if decodes else 0
    tokens = STEP_TOKENS if decodes else 256 * prompts
    inner = getattr(text, "intermediate_size", None) or getattr(text, "encoder_ffn_dim", 0)
    # The widest moment of a layer: both halves of the gated MLP beside the residual stream and the attention's inputs.
    activations = tokens * (2 * inner + 6 * text.hidden_size) * 2 / GIB
    return Need(name, engine.model, parameters, weights, kv / GIB, activations)


def _decoder_weights(model: Any) -> int:
    """How many weights the linear layers of the text decoder have."""
    from torch import nn

    return sum(
        module.weight.numel() for module in model.model.language_model.modules() if isinstance(module, nn.Linear)
    )


def _kv_bytes_a_token(text: Any) -> int:
    """Keys and values of every layer in 16 bit."""
    return 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 2
