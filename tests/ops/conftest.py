import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.server import environment_in, write_config
from roadwork_serve.profiles.load import load_profile
from tests.miner.calls import VALIDATOR
from tests.ops.three import HOTKEYS, Miners, eventually, ports_in_a_row


@pytest.fixture(scope="session")
def miners() -> Iterator[Miners]:
    """Yield miners that answer."""
    folder = Path(tempfile.mkdtemp(prefix="rw-"))  # Ray's socket paths must be short
    stages = ("backbone", "signs", "vlm", "reasoner", "video")
    overrides: dict[str, Any] = {
        "ingress": {"num_cpus": 0.1, "decode_processes": 1},
        "engines": {name: {"num_cpus": 0.1} for name in load_profile("mini").engines},
        "stages": {stage: {} for stage in stages},
    }
    port, _ = write_config(folder / "serve.yaml", {"profile": "mini", "overrides": overrides}, "tests.e2e.fakes:build")
    first_port = ports_in_a_row()
    environment = {
        **os.environ, **environment_in(folder),
        "PM2_HOME": str(folder / "pm2"),
        "ROADWORK_SERVE_CONFIG": str(folder / "serve.yaml"),
        "ROADWORK_LOGS": str(folder / "logs"),
        "ROADWORK_STATE": str(folder / "state"),
        "ROADWORK_HOTKEYS": ",".join(HOTKEYS),
        "ROADWORK_FIRST_PORT": str(first_port),
        "ROADWORK_MINER_OFFLINE": "true",
        "ROADWORK_MINER_ALLOW": VALIDATOR.ss58_address,
        "ROADWORK_MINER_PER_MINUTE": "10000",
    }  # fmt: skip
    made = Miners(f"http://127.0.0.1:{port}", first_port, environment, folder)
    try:
        made.pm2("start", "ops/ecosystem.config.js")
        eventually(made.all_answer, 120, "all three answer", made)
        yield made
    finally:
        made.pm2("kill")
        shutil.rmtree(folder, ignore_errors=True)
