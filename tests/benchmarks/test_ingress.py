"""The benchmark of several ingress replicas: each process gets its share of a core, and all of it afterwards."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from PIL import Image

from benchmarks.ingress import limited, small_photos
from benchmarks.server import status


@pytest.fixture
def busy() -> Iterator[list[int]]:
    """Yield two processes that never rest."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    yield [process.pid for process in processes]
    for process in processes:
        process.kill()
        process.wait()


def core_s(pids: list[int]) -> list[float]:
    return [int(status(pid)[11]) / os.sysconf("SC_CLK_TCK") for pid in pids]


def test_each_process_gets_at_most_its_share_of_a_core(busy: list[int]) -> None:
    before, began = core_s(busy), time.monotonic()
    with limited(busy, 0.1):
        time.sleep(2)
    took_s = time.monotonic() - began
    shares = [(now - then) / took_s for now, then in zip(core_s(busy), before, strict=True)]
    assert all(0 < each < 0.25 for each in shares), shares
    assert all(status(pid)[0] != "T" for pid in busy), "they run again"


def test_a_process_that_has_ended_is_no_error(busy: list[int]) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    before = core_s(busy)
    with limited([gone.pid, *busy], 0.5):
        time.sleep(0.5)
    assert all(now > then for now, then in zip(core_s(busy), before, strict=True)), "the others went on"


def test_photos_need_no_scaling() -> None:
    assert {Image.open(io.BytesIO(photo)).size for photo in small_photos()} == {(224, 224)}
