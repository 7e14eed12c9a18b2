"""The quantized weights that vLLM loads on a GPU: of which checkpoint, converted or not, with which kernels.

Which kernels exist for which compute capability is from the sources of vLLM 0.32:
`model_executor/kernels/linear/__init__.py` (their order) and `model_executor/layers/quantization/online/fp8.py`.

| compute capability | FP8 in blocks | FP8 per channel, made on load | 4 bit |
| --- | --- | --- | --- |
| 7.5 to 8.8 (Turing, Ampere) | weights only (Marlin) | refused | Marlin |
| 8.9 (Ada) | weights only (Marlin) | W8A8 (CUTLASS) | Marlin |
| 9.0 and above (Hopper, Blackwell) | W8A8 (DeepGEMM, CUTLASS) | W8A8 (CUTLASS) | Marlin, Machete |

W8A8 halves the time of a prefill, which is all the work of an answer without reasoning. With weights only, a prefill
takes as long as in 16 bit, and less memory.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.model_sizes import StoredQuantization, parse_quantization

_LOG = logging.getLogger("ray.serve.roadwork.quantization")
Capability = tuple[int, int]
LOWEST: Capability = (7, 5)  # Marlin
BF16: Capability = (8, 0)
ADA: Capability = (8, 9)
HOPPER: Capability = (9, 0)
#: Modules of the vision towers of Qwen-VL and Molmo 2, which stay in 16 bit, as in the published FP8 checkpoints.
VISION = ("*visual*", "*vision_backbone*")


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights that vLLM loads."""

    #: Folder or hub id.
    model: str
    revision: str | None
    #: Arguments for vLLM's engine.
    arguments: dict[str, Any] = field(default_factory=dict)


def choose_model(engine: EngineSpec, capability: Capability | None) -> str:
    """Return the checkpoint with the fastest weights for a GPU: `model`, or one of `quantized_models`.

    Args:
        engine: The engine of a profile.
        capability: Compute capability of the GPU; None on a CPU.
    """
    if engine.quantization != "auto":
        return engine.model
    published = engine.quantized_models
    if capability is None or ADA <= capability < HOPPER:
        return engine.model
    if capability >= HOPPER:
        return published.get("fp8", engine.model)
    return published.get("int4") or published.get("fp8") or engine.model


def weights_for(engine: EngineSpec, model: str, config: dict[str, Any], capability: Capability | None) -> Weights:
    """Return the weights to load.

    Args:
        engine: The engine of a profile.
        model: The checkpoint, from `choose_model`.
        config: Contents of the checkpoint's config.json.
        capability: Compute capability of the GPU; None on a CPU.

    Raises:
        ConfigError: The GPU cannot run these weights, or the checkpoint has others than the profile says.
    """
    stored = parse_quantization(config)
    _check_stored(engine, model, stored)
    if capability is not None:
        _check_capability(engine, model, stored, capability)
    revision = engine.revision if model == engine.model else None
    convert = stored is None and engine.quantization is not None
    if not convert:
        return Weights(model, revision)
    # Below Ada no kernel multiplies FP8 by FP8, and vLLM refuses scales per channel; Marlin takes those per tensor.
    per_channel = capability is None or capability >= ADA
    return Weights(
        model,
        revision,
        {
            "quantization": "fp8_per_channel" if per_channel else "fp8_per_tensor",
            "quantization_config": {"ignore": list(VISION)},
        },
    )


def _check_stored(engine: EngineSpec, model: str, stored: StoredQuantization | None) -> None:
    wanted = engine.quantization
    found = None if stored is None else stored.weight_format
    if stored is None:
        if wanted == "int4":
            raise ConfigError(
                f"quantization is int4, and the weights of {model} are not quantized: name a 4-bit checkpoint (AWQ, "
                "GPTQ or compressed-tensors), or set fp8, which vLLM makes on load"
            )
    elif found is None:
        raise ConfigError(
            f"{model} has {stored.bits}-bit weights ({stored.method}), which are neither fp8 nor int4: use another "
            "checkpoint"
        )
    elif wanted not in (found, "auto"):
        raise ConfigError(f"{model} has {found} weights ({stored.method}): set quantization: {found}")


def _check_capability(
    engine: EngineSpec, model: str, stored: StoredQuantization | None, capability: Capability
) -> None:
    have = f"{capability[0]}.{capability[1]}"
    if engine.dtype == "bfloat16" and capability < BF16:
        raise ConfigError(
            f"dtype: {model} cannot run in bfloat16 on a GPU of compute capability {have}, which starts at 8.0: set "
            "dtype: float16"
        )
    if (stored is not None or engine.quantization is not None) and capability < LOWEST:
        raise ConfigError(
            f"quantization: vLLM has no kernel for quantized weights on a GPU of compute capability {have}, only from "
            "7.5 on: remove quantization, and use a smaller model if it does not fit in 16 bit"
        )
    if stored is not None and stored.blocks and BF16 <= capability < HOPPER:
        cure = (
            "the 16-bit checkpoint with quantization: fp8 is about a third faster"
            if capability >= ADA
            else "a 4-bit checkpoint is as fast and smaller"
        )
        _LOG.info(
            "%s has FP8 weights in blocks, which a GPU of compute capability %s multiplies in 16 bit; %s.",
            model, have, cure,
        )  # fmt: skip


def compute_capability() -> Capability | None:
    """Return the compute capability of the first GPU, without opening a CUDA context; None on a CPU."""
    from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]

    found = current_platform.get_device_capability()
    return None if found is None else (found.major, found.minor)
