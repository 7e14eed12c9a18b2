import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from roadwork_serve.engines.gpu_lock import gpu_load_lock
from roadwork_serve.profiles.engine_spec import EngineSpec

_GPU = {"backend": "vllm", "model": "m", "device": "cuda", "num_gpus": 0.5}
MEASURES = EngineSpec.model_validate(_GPU | {"vllm": {"gpu_memory_utilization": 0.5}})
FIXED = EngineSpec.model_validate(_GPU | {"vllm": {"kv_cache_gib": 2}})
BACKBONE = EngineSpec(backend="transformers", model="m", device="cuda", num_gpus=0.2)
ON_CPU = EngineSpec(backend="transformers", model="m")


def loads_beside(first: EngineSpec, second: EngineSpec, folder: Path) -> bool:
    """Return whether the second engine can load while the first does. It always can afterwards."""
    inside = threading.Event()

    def load() -> None:
        with gpu_load_lock(second, folder):
            inside.set()

    thread = threading.Thread(target=load)
    with gpu_load_lock(first, folder):
        thread.start()
        beside = inside.wait(0.3)
    thread.join(10)
    assert inside.is_set()
    return beside


def test_an_engine_that_measures_the_free_memory_loads_alone(tmp_path: Path) -> None:
    assert not loads_beside(MEASURES, MEASURES, tmp_path)
    assert not loads_beside(MEASURES, FIXED, tmp_path)
    assert not loads_beside(BACKBONE, MEASURES, tmp_path)


def test_engines_of_fixed_memory_load_at_the_same_time(tmp_path: Path) -> None:
    assert loads_beside(FIXED, FIXED, tmp_path)
    assert loads_beside(FIXED, BACKBONE, tmp_path)


def test_every_gpu_has_its_own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    with gpu_load_lock(MEASURES, tmp_path):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2")
        with gpu_load_lock(MEASURES, tmp_path):
            assert len(list(tmp_path.iterdir())) == 2


def test_engines_on_a_cpu_take_no_lock(tmp_path: Path) -> None:
    with gpu_load_lock(ON_CPU, tmp_path), gpu_load_lock(ON_CPU, tmp_path):
        assert not list(tmp_path.iterdir())


def _die_while_loading(folder: Path) -> None:
    with gpu_load_lock(MEASURES, folder):
        os._exit(1)


def test_a_process_that_dies_releases_the_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_while_loading, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 1
    with gpu_load_lock(MEASURES, tmp_path):
        pass
