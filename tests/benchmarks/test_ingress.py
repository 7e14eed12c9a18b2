"""The benchmark of several ingress replicas: each process gets its share of a core, and all of it afterwards."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

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


def ticks(pids: list[int]) -> list[int]:
    return [int(status(pid)[11]) for pid in pids]


def test_each_process_gets_at_most_its_share_of_a_core(busy: list[int]) -> None:
    before = ticks(busy)
    with limited(busy, 0.1):
        time.sleep(2)
    spent = [100 * (now - then) // 200 for now, then in zip(ticks(busy), before, strict=True)]  # percent of a core
    assert all(0 < each < 25 for each in spent), spent
    assert all(status(pid)[0] != "T" for pid in busy), "they run again"


def test_a_process_that_has_ended_is_no_error(busy: list[int]) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with limited([gone.pid, *busy], 0.5):
        time.sleep(0.2)


def test_photos_need_no_scaling() -> None:
    assert all(photo[:2] == b"\xff\xd8" and 3000 < len(photo) < 30000 for photo in small_photos())
