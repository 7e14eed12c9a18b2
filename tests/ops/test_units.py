"""The systemd units say what systemd and the miner understand."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from benchmarks.server import ROOT
from roadwork_serve.miner.settings import PREFIX, Settings

UNITS = sorted((ROOT / "ops/systemd").glob("*.service"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine")
def test_systemd_finds_nothing_wrong_with_them(tmp_path: Path) -> None:
    found = [tmp_path / unit.name for unit in UNITS]
    for unit, copy in zip(UNITS, found, strict=True):
        copy.write_text(unit.read_text().replace("/opt/roadwork-serve", str(ROOT)))
    done = subprocess.run(["systemd-analyze", "verify", *map(str, found)], capture_output=True, text=True, timeout=60)
    ours = [line for line in done.stderr.splitlines() if "roadwork" in line]
    assert len(UNITS) == 2 and not ours


@pytest.mark.parametrize("file", [*UNITS, ROOT / "ops/ecosystem.config.js"], ids=lambda file: file.name)
def test_every_variable_of_the_miner_is_one_of_its_settings(file: Path) -> None:
    named = set(re.findall(rf"{PREFIX}([A-Z_]+)", file.read_text()))
    assert {name.lower() for name in named} <= set(Settings.model_fields)
    assert named or "miner" not in file.name


def test_the_file_they_share_is_valid_as_it_stands_and_with_its_comments_taken_away() -> None:
    text = (ROOT / "ops/miner.yaml").read_text()
    bare = re.sub(r"^# (?=[a-z_]+:)", "", text, flags=re.MULTILINE)
    for told in (yaml.safe_load(text), yaml.safe_load(bare)):
        assert set(told) <= set(Settings.model_fields)
        Settings.model_validate(told)
    assert set(yaml.safe_load(bare)) > set(yaml.safe_load(text))
