"""Requirements of a machine beside its GPUs, checked before models load: the driver, vLLM and a C compiler."""

import os
import shutil
import sysconfig
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from roadwork_serve.profiles.nvml import NvmlReading
from roadwork_serve.profiles.profile import Profile

CUDA = 13000  # of torch and vLLM in ops/gpu/requirements.txt; its first driver is R580
BFLOAT16 = (8, 0)  # compute capability of Ampere


def missing_requirements(
    profile: Profile, reading: NvmlReading | None, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Return what a profile needs and this machine does not have, each with the remedy. Empty without engines on a GPU.

    Args:
        profile: The profile.
        reading: The reading of the driver; None if there is none, which is not reported here.
        environment: Environment variables; CC may name the C compiler.
    """
    engines = [profile.engines[name] for name in profile.users() if profile.engines[name].device == "cuda"]
    if not engines:
        return []
    missing: list[str] = []
    if reading is not None and reading.cuda < CUDA:
        missing.append(
            f"the driver {reading.driver} supports CUDA {_version(reading.cuda)}, and the installed PyTorch and vLLM "
            f"need {_version(CUDA)}: install the driver R580 or a newer one"
        )
    gpus = [] if reading is None else [gpu for gpu in reading.gpus if gpu.visible]
    if gpus and any(e.dtype == "bfloat16" for e in engines) and all(gpu.capability < BFLOAT16 for gpu in gpus):
        missing.append(
            f"{gpus[0].name} computes no bfloat16, which takes a GPU of the generation Ampere or a newer one: use "
            "another GPU, or the profile cpu"
        )
    uses_vllm = any(engine.backend == "vllm" for engine in engines)
    if uses_vllm and find_spec("vllm") is None:
        missing.append("vllm is not installed: run `make gpu`")
    if uses_vllm or any(engine.features.compile is not False for engine in engines if engine.features.side):
        missing += _missing_for_triton(environment)
    return missing


def _missing_for_triton(environment: Mapping[str, str]) -> list[str]:
    """Return what Triton needs to build its launchers, in the order in which it looks for a compiler."""
    missing: list[str] = []
    compiler = environment.get("CC")
    if shutil.which(compiler, path=environment.get("PATH")) is None if compiler else not _any_compiler(environment):
        named = f"CC names {compiler}, which is not there" if compiler else "there is no C compiler"
        missing.append(f"{named}, and kernels are compiled at the start: install gcc (apt-get install gcc)")
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        missing.append(
            f"{headers} has no Python.h, and kernels are compiled at the start: install Python's headers "
            "(apt-get install python3-dev)"
        )
    return missing


def _any_compiler(environment: Mapping[str, str]) -> bool:
    return any(shutil.which(name, path=environment.get("PATH")) for name in ("gcc", "clang"))


def _version(cuda: int) -> str:
    """Return NVML's number of a CUDA version as text: 13000 is 13.0."""
    return f"{cuda // 1000}.{cuda % 1000 // 10}"
