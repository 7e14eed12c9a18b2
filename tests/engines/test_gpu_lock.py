import multiprocessing
import os
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from roadwork_serve.engines.gpu_lock import exclusive_gpu_load


def test_engines_load_one_at_a_time_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    with exclusive_gpu_load("cuda", tmp_path):
        (lock,) = tmp_path.iterdir()
        with pytest.raises(Timeout):
            FileLock(lock).acquire(timeout=0)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2")
        with exclusive_gpu_load("cuda", tmp_path):  # another GPU
            assert len(list(tmp_path.iterdir())) == 2
    FileLock(lock).acquire(timeout=0)


def test_engines_load_in_parallel_on_a_cpu(tmp_path: Path) -> None:
    with exclusive_gpu_load("cpu", tmp_path), exclusive_gpu_load("cpu", tmp_path):
        assert not list(tmp_path.iterdir())


def _die_while_loading(folder: Path) -> None:
    with exclusive_gpu_load("cuda", folder):
        os._exit(1)


def test_a_process_that_dies_releases_the_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_while_loading, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 1
    (lock,) = tmp_path.iterdir()
    FileLock(lock).acquire(timeout=1)
