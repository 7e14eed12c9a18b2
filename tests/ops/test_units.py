"""The systemd units are valid for systemd, and their variables for the miner."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.server import ROOT
from roadwork_serve.miner.settings import PREFIX, MinerSettings
from roadwork_serve.ray_environment import RAY

UNITS = sorted((ROOT / "ops/systemd").glob("*.service"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    found = [tmp_path / unit.name for unit in UNITS]
    for unit, copy in zip(UNITS, found, strict=True):
        copy.write_text(unit.read_text().replace("/opt/roadwork-serve", str(ROOT)))
    done = subprocess.run(["systemd-analyze", "verify", *map(str, found)], capture_output=True, text=True, timeout=60)
    ours = [line for line in done.stderr.splitlines() if "roadwork" in line]
    assert len(UNITS) == 4 and not ours


@pytest.mark.parametrize("file", [*UNITS, ROOT / "ops/ecosystem.config.js"], ids=lambda file: file.name)
def test_every_variable_of_the_miner_is_one_of_its_settings(file: Path) -> None:
    named = set(re.findall(rf"{PREFIX}([A-Z_]+)", file.read_text()))
    assert {name.lower() for name in named} <= set(MinerSettings.model_fields)
    assert named or "miner" not in file.name


def test_a_cluster_node_has_rays_settings_and_a_token() -> None:
    unit = (ROOT / "ops/systemd/roadwork-node.service").read_text()
    configured = dict(
        each.split("=", 1) for line in re.findall("^Environment=(.*)", unit, re.MULTILINE) for each in line.split()
    )
    alone = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES"}  # of one small machine
    assert {name: configured[name] for name in RAY.keys() - alone} == {
        name: value for name, value in RAY.items() if name not in alone
    }
    assert configured["RAY_AUTH_MODE"] == "token"
    assert configured["RAY_AUTH_TOKEN_PATH"] in (ROOT / "docs/cluster.md").read_text()


def test_every_option_of_ray_start_exists() -> None:
    text = (ROOT / "docs/cluster.md").read_text() + (ROOT / "ops/systemd/roadwork-node.service").read_text()
    lines = re.findall(r'RAY_START="([^"]*)"|ray start (.*)|`(--num.*?)` belong', text)
    options = {option for line in lines for option in re.findall(r"--[a-z-]+", " ".join(line))}
    ray = Path(sys.executable).with_name("ray")
    known = subprocess.run([ray, "start", "--help"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert {"--head", "--address", "--block", "--num-gpus"} <= options
    assert options <= set(re.findall(r"^ +(--[a-z-]+)", known, re.MULTILINE))


def test_the_shared_file_is_valid_as_shipped_and_uncommented() -> None:
    text = (ROOT / "ops/miner.yaml").read_text()
    bare = re.sub(r"^# (?=[a-z_]+:)", "", text, flags=re.MULTILINE)
    for settings in (yaml.safe_load(text), yaml.safe_load(bare)):
        assert set(settings) <= set(MinerSettings.model_fields)
        MinerSettings.model_validate(settings)
    assert set(yaml.safe_load(bare)) > set(yaml.safe_load(text))
