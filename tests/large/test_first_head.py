"""The page `docs/first-head.md`, from top to bottom, against a server as `make serve` starts it."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from roadwork_serve.cli.own_server import own_server
from roadwork_serve.client import Client
from roadwork_serve.state_folder import VARIABLE
from tests.docs.pages import blocks

PHOTOS = 120
SERVER = "http://127.0.0.1:8000"


class Reader:
    """Somebody with a folder of photos who types the commands of the page."""

    def __init__(self, folder: Path, url: str, state: Path) -> None:
        self.folder, self._url, self._state = folder, url, state
        (folder / ".venv").symlink_to(sys.prefix)

    def types(self, text: str) -> str:
        for command in ("roadwork policy [a-z]+", "roadwork retrain"):
            text = re.sub(command, rf"\g<0> --server {SERVER}", text)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text.replace(SERVER, self._url)],
            cwd=self.folder, env=os.environ | {VARIABLE: str(self._state)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def labels(self) -> int:
        """Label what the table asks for by the truth. Return how many photos that are."""
        with (self.folder / "photos/manifest.csv").open(newline="") as file:
            truths = {row["file"]: row["label"] for row in csv.DictReader(file)}
        table = self.folder / "to-label.csv"
        with table.open(newline="") as file:
            rows = [row | {"label": truths[row["filename"]]} for row in csv.DictReader(file)]
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return len(rows)


@pytest.mark.timeout(1500)
def test_a_hundred_labels_lead_to_a_promoted_policy(tmp_path: Path) -> None:
    page = [block.text for block in blocks("sh") if block.page == "first-head.md" and not block.text.startswith("make")]
    collect, sample, label, retrain, watch = page
    with own_server("auto", state=tmp_path / "state") as url:
        reader = Reader(tmp_path, url, tmp_path / "state")
        reader.types(f".venv/bin/roadwork render --out photos --count {PHOTOS} --seed 41")
        reader.types(collect)
        reader.types(sample)
        assert reader.labels() == PHOTOS
        reader.types(label)
        told = reader.types(retrain)
        assert "Better: " in told and "more accurate by at least 5 points" in told
        with Client(url) as client:
            active = client.policy()
            promoted, audit = active.rollout.policy, active.rollout.audit
            assert promoted.version.startswith("retrained-") and audit is not None and audit.share == 0.02
            assert promoted.certificate is not None and promoted.certificate.risk_limit == 0.1
            verdict = client.classify(next((tmp_path / "photos").glob("*.jpg")))
            assert (verdict.policy_version, verdict.degraded) == (promoted.version, False)
            assert promoted.version in reader.types(watch)
            assert client.policy().version == "cpu-2"
