"""Freed memory stays with a process that asks for it, though the server's processes give it back."""

import os
import platform
import subprocess
import sys

import pytest

from roadwork_serve.ray_environment import RAY

PROGRAM = """
import resource, sys
import numpy as np
from roadwork_serve.engines.heap import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def use():
    np.ones(40 * 2**20, np.uint8)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    environment = os.environ | {name: value for name, value in RAY.items() if name.startswith("MALLOC_")}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], env=environment, capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has these settings")
def test_the_system_clears_no_pages_anew_for_a_process_that_keeps_them() -> None:
    assert 3 * faults("keep") < faults("return")
