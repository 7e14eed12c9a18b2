"""Engines get the GPUs that their profile names, on a Ray with two made-up GPUs, in every order of start."""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from benchmarks.server import RAY_TRIES, RAY_WAS_SLOW
from deployments.app import build_app
from deployments.gpus import gpu_resource
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import Profile

WAIT_S = 60
PROFILES = Path(__file__).parents[2] / "roadwork_serve/profiles"
GPU_PROFILES = sorted(file.stem for file in PROFILES.glob("gpu-*.yaml"))
MODELS_ON_GPUS = {"stages": {"backbone": {"engine": "dinov3"}, "signs": {"engine": "florence-2"}}}


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[None]:
    for tries_left in range(RAY_TRIES - 1, -1, -1):
        try:
            ray.init(
                address="local", num_cpus=16, num_gpus=2, resources={gpu_resource(0): 1, gpu_resource(1): 1},
                include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20,
            )  # fmt: skip
            break
        except Exception as error:  # Ray raises it when it gives up on a busy machine
            ray.shutdown()
            if not tries_left or RAY_WAS_SLOW not in str(error):
                raise
    yield
    ray.shutdown()


@ray.remote(max_retries=0)
def occupy(name: str, folder: str) -> None:
    """Hold the resources of an engine, and report the GPU that CUDA would see, until the file `end` appears."""
    seen = f"{os.environ['CUDA_VISIBLE_DEVICES']} {os.environ['CUDA_DEVICE_ORDER']}"
    Path(folder, f".{name}").write_text(seen)
    Path(folder, f".{name}").rename(Path(folder, name))
    while not Path(folder, "end").exists():
        time.sleep(0.005)


def options(profile: Profile) -> dict[str, dict[str, Any]]:
    """Return the options of the actor of each engine on a GPU, as Serve gets them."""
    _, stages, _ = build_app(profile)._bound_deployment.init_args
    deployed = {name: stages[next(iter(users))]._bound_deployment for name, users in profile.users().items()}
    return {
        name: {key: each.ray_actor_options[key] for key in ("num_gpus", "resources", "runtime_env")
               if each.ray_actor_options.get(key)}
        for name, each in deployed.items()
        if profile.engines[name].device == "cuda"
    }  # fmt: skip


def gpus_of(starts: list[tuple[str, dict[str, Any]]], folder: Path, at_once: bool = False) -> dict[str, str]:
    """Start engines in this order, each after the one before has its GPU; return the GPU of each."""
    folder.mkdir()
    running: list[Any] = []
    try:
        for at, (name, each) in enumerate(starts):
            running.append(occupy.options(num_cpus=0.1, **each).remote(name, str(folder)))
            if not at_once:
                _await(folder, at + 1)
        _await(folder, len(starts))
        return {file.name: file.read_text() for file in folder.iterdir()}
    finally:
        (folder / "end").touch()
        ray.get(running)


def _await(folder: Path, files: int) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while len([file for file in folder.iterdir() if not file.name.startswith(".")]) < files:
        assert time.monotonic() < give_up_at, f"no GPU for one of them: {sorted(folder.iterdir())}"
        time.sleep(0.005)


@pytest.mark.parametrize("name", [name for name in GPU_PROFILES if load_profile(name).names_gpus])
def test_every_profile_with_named_gpus_uses_them_in_every_order(two_gpus: None, name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    engines = options(profile)
    expected = {each: f"{profile.engines[each].gpu} PCI_BUS_ID" for each in engines}
    assert set(expected.values()) == {"0 PCI_BUS_ID", "1 PCI_BUS_ID"}
    for at, order in enumerate(itertools.permutations(engines.items())):
        assert gpus_of(list(order), tmp_path / str(at)) == expected, [name for name, _ in order]


def test_named_gpus_are_used_in_every_order(two_gpus: None, tmp_path: Path) -> None:
    engines = options(load_profile("gpu-2x24gb", MODELS_ON_GPUS))
    first, second = "0 PCI_BUS_ID", "1 PCI_BUS_ID"
    expected = {
        "qwen3-vl": first, "dinov3": first, "florence-2": first, "qwen3-vl-thinking": second, "molmo2": second
    }  # fmt: skip
    assert set(engines) == set(expected)
    assert gpus_of(list(engines.items()), tmp_path / "at-once", at_once=True) == expected
    for at, order in enumerate(itertools.permutations(engines.items())):
        assert gpus_of(list(order), tmp_path / str(at)) == expected, [name for name, _ in order]


@pytest.mark.parametrize(
    ("name", "changes"),
    [("gpu-24gb", MODELS_ON_GPUS), ("gpu-24gb-qwen35", {}), ("gpu-80gb", {})],
)
def test_a_second_replica_takes_the_second_gpu(
    two_gpus: None, name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    profile = load_profile(name, changes)
    engines = options(profile)
    assert not profile.names_gpus
    grown = max(engines, key=lambda each: (profile.engines[each].max_replicas or 1, engines[each]["num_gpus"]))
    for at, order in enumerate(itertools.permutations(engines.items())):
        found = gpus_of([*order, ("again", engines[grown])], tmp_path / str(at))
        assert len({found[each] for each in engines}) == 1, "the first replicas share a GPU"
        assert {found[grown], found["again"]} == {"0 PCI_BUS_ID", "1 PCI_BUS_ID"}
