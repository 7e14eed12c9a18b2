"""Every alert fires in its situation and in no other: alerts_test.yml, run by promtool."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.server import ROOT

HERE = ROOT / "build/prometheus/usr/bin/promtool"
PROMTOOL = shutil.which("promtool") or (str(HERE) if HERE.exists() else None)
RULES, TESTS = ROOT / "ops/alerts.yml", Path(__file__).with_name("alerts_test.yml")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not there; make test-ops unpacks Debian's")
def test_each_rule_fires_in_its_situation(tmp_path: Path) -> None:
    for path in (RULES, TESTS):
        shutil.copy(path, tmp_path)
    command = [str(PROMTOOL), "test", "rules", TESTS.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_test() -> None:
    rules = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    assert rules == set(re.findall(r'alertname="(\w+)"', TESTS.read_text()))
