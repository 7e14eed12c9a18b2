"""The real Dendrite of bittensor 10.5.0 against `miner.py --offline` and a running cascade: `make test-miner`."""

import asyncio
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from bittensor_core import Keypair
from PIL import Image
from sqlalchemy import create_engine, select

from benchmarks.server import ROOT, environment_in, started
from roadwork_serve.journal.tables import predictions
from roadwork_serve.miner.protocol import rounded_safely
from roadwork_serve.schema import Verdict
from roadwork_serve.testbed.scene_dataset import draw_scenes, drawing_workers, scene_seed

PYTHON = ROOT / ".venv-dendrite/bin/python"
VALIDATOR = Keypair.create_from_uri("//Validator").ss58_address
SIZES = [(224, 224), (640, 480), (1024, 1024), (1280, 720), (1920, 1080), (512, 512), (2048, 1536), (4032, 3024)]
COUNT, AT_ONCE = 200, 10

pytestmark = [
    pytest.mark.skipif(not PYTHON.exists(), reason="bittensor 10.5.0 has an environment of its own: make test-miner"),
    pytest.mark.timeout(900),
]


def drawn(folder: Path) -> list[Path]:
    """Write scenes in all the sizes that validators send, one size each, compressed twice."""
    seeds = [(scene_seed(9601, at), "photo") for at in range(COUNT)]
    files: list[Path] = []
    for at, sample in enumerate(draw_scenes(seeds, drawing_workers())):
        image = Image.open(io.BytesIO(sample.data)).convert("RGB").resize(SIZES[at % len(SIZES)])
        image.save(file := folder / f"{at}.jpg", quality=75)
        files.append(file)
    return files


@contextmanager
def miner(folder: Path, *flags: str, environment: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Run a miner, and yield its port and its hotkey."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ("--offline", "--allow", VALIDATOR, "--port", str(port), "--state", str(folder), *flags)
    log = folder / "miner.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "miner.py"), *flags],
            cwd=ROOT, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        give_up_at = time.monotonic() + 60
        while "listens on" not in log.read_text():
            assert process.poll() is None and time.monotonic() < give_up_at, log.read_text()
            time.sleep(0.1)
        yield port, log.read_text().split(" listens on")[0].split()[-1]
    finally:
        process.terminate()
        assert process.wait(20) == 0, log.read_text()


def asked(folder: Path, port: int, hotkey: str, files: list[Path]) -> list[dict[str, float]]:
    """Return the Dendrite's results for its calls, over both routes."""
    names = ("ImageSynapse", "ExtendedImageSynapse")
    calls = [(names[at % 2], str(file)) for at, file in enumerate(files)]
    (calls_file := folder / "calls.json").write_text(
        json.dumps({"port": port, "hotkey": hotkey, "max_concurrent": AT_ONCE, "calls": calls})
    )
    done = subprocess.run(
        [str(PYTHON), str(ROOT / "tests/wire/dendrite.py"), str(calls_file)],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


async def verdicts(url: str, pictures: list[bytes]) -> list[Verdict]:
    gate = asyncio.Semaphore(4)
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def one(picture: bytes) -> Verdict:
            async with gate:
                reply = await client.post("/v1/classify?deadline_ms=60000", content=picture)
                return Verdict.model_validate_json(reply.content)

        return await asyncio.gather(*(one(picture) for picture in pictures))


def journalled(url: str, pictures: list[bytes]) -> list[Verdict]:
    """Return the journal's verdicts of the pictures, each of which was sent once."""
    give_up_at = time.monotonic() + 30
    with create_engine(url).connect() as journal:
        while True:
            rows = journal.execute(select(predictions.c.sha256, predictions.c.verdict)).all()
            if len(rows) >= len(pictures):
                break
            journal.rollback()
            assert time.monotonic() < give_up_at, f"{len(rows)} of {len(pictures)} predictions are in the journal"
            time.sleep(0.2)
    found = {sha256: Verdict.model_validate_json(text) for sha256, text in rows}
    return [found[hashlib.sha256(picture).hexdigest()] for picture in pictures]


def prediction(verdict: Verdict) -> float:
    return rounded_safely(verdict.probability, verdict.positive)


async def test_a_real_dendrite_gets_the_answers_of_the_cascade_in_time(tmp_path: Path) -> None:
    files = await asyncio.to_thread(drawn, tmp_path)
    pictures = [file.read_bytes() for file in files]
    with started(tmp_path / "server.log", {"profile": "mini"}) as server:
        environment = environment_in(server.folder)
        flags = ("--per-minute", "100000", "--max-concurrent", str(AT_ONCE))
        with miner(tmp_path, *flags, environment=environment) as (port, hotkey):
            answers = await asyncio.to_thread(asked, tmp_path, port, hotkey, files)
        recorded = await asyncio.to_thread(journalled, server.journal, pictures)
        unhurried = await verdicts(server.url, pictures)
    assert len(answers) == COUNT
    assert {(answer["status"], answer["image"], answer["label"]) for answer in answers} == {(200, 0, 1)}
    assert max(answer["seconds"] for answer in answers) < 9.0
    sent = np.array([answer["prediction"] for answer in answers])
    assert ((sent >= 0) & (sent <= 1) & (sent != 0.5)).all()
    assert np.abs(sent - [prediction(verdict) for verdict in recorded]).max() < 1e-6
    whole = np.array([verdict.exit.reason != "deadline" and not verdict.degraded for verdict in recorded])
    off = np.abs(sent - [prediction(verdict) for verdict in unhurried])[whole].max()
    slowest = max(answer["seconds"] for answer in answers)
    print(f"slowest {slowest:.2f} s, {COUNT - whole.sum()} cut short, the others off by at most {off:.2g}")
    assert whole.sum() >= 0.9 * COUNT
    assert off < 1e-3
