"""Runs the examples of README and docs/ against a server with keys, in a folder with the files they name."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from benchmarks.fake_models import open_fake_stages, overrides
from roadwork_serve.api.api_keys import new_key
from roadwork_serve.profiles.load import load_policy_mapping, load_profile
from tests.docs.pages import Block, blocks
from tests.e2e.conftest import Cluster, application, journal_in
from tests.e2e.test_cluster import GREY, WHITE, mp4

SERVER = "http://127.0.0.1:8000"
RUN = [block for block in blocks("sh") if block.why_not is None and not block.text.startswith("make ")]


@dataclass(frozen=True)
class Desk:
    """The setup of a reader of the pages: a folder, a server, and an admin's key for it."""

    folder: Path
    url: str
    key: str

    def types(self, command: list[str], text: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "ROADWORK_API_KEY": self.key,
            "CURL_HOME": str(self.folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            [*command, re.sub(r"roadwork policy \w+", rf"\g<0> --server {SERVER}", text).replace(SERVER, self.url)],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture(scope="module")
def desk(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    for name, data in (("photo.jpg", WHITE), ("a.jpg", GREY), ("b.jpg", WHITE), ("clip.mp4", mp4(255))):
        (folder / name).write_bytes(data)
    (folder / ".venv").symlink_to(sys.prefix)
    mine = load_policy_mapping("mini") | {"version": "mine"}
    (folder / "my-policy.yaml").write_text(yaml.safe_dump(mine))
    key, kept = new_key("ann", "admin", None)
    (folder / "server-keys.yaml").write_text(kept.entry())
    (folder / ".curlrc").write_text(f'header = "X-API-Key: {key}"\nfail-with-body\nno-progress-meter\n')
    ingress = {"ingress": {"num_cpus": 0.1, "keys_file": str(folder / "server-keys.yaml")}}
    profile = load_profile("mini", overrides({}) | ingress | {"policy": "mini", "journal": journal_in(folder)})
    with application(cluster, "desk", profile, open_fake_stages) as url:
        yield Desk(folder, url, key)


@pytest.mark.parametrize("block", RUN, ids=str)
def test_shell_examples_work(desk: Desk, block: Block) -> None:
    if "curl " in block.text and shutil.which("curl") is None:
        pytest.skip("curl is not installed here")
    desk.types(["bash", "-euo", "pipefail", "-c"], block.text)


@pytest.mark.parametrize("block", [block for block in blocks("python") if block.why_not is None], ids=str)
def test_python_examples_work(desk: Desk, block: Block) -> None:
    text = block.text.replace("timeout=30", f"timeout=30, headers={{'X-API-Key': '{desk.key}'}}")
    done = desk.types([sys.executable, "-c"], text)
    assert done.stdout.split()[0] in ("roadwork", "none")
