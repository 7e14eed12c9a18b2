"""Heavy files, kills and a full or removed disk on a running server: others are answered, nothing is lost unseen."""

import asyncio
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from PIL import Image

from benchmarks.attacks.files import worst_files
from roadwork_serve.schema import Problem, Verdict
from tests import corpus
from tests.attacks.conftest import Attacked
from tests.tmpfs import fill

GOOD = corpus.encoded(corpus.picture())
BOMBS = (
    "jpeg-scan-bomb",
    "jpeg-of-large-scans",
    "png-of-chunks",
    "png-of-long-pixels",
    "mp4-of-many-edits",
    "png-giant",
)
WITHIN_S = 60.0


async def classify(client: httpx.AsyncClient, data: bytes) -> httpx.Response:
    return await client.post("/v1/classify", content=data, headers={"Content-Type": "application/octet-stream"})


def client_of(attacked: Attacked) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=attacked.url, timeout=120)


def request_id(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return Verdict.model_validate_json(response.content).request_id


def eventually(holds: Callable[[], bool]) -> bool:
    give_up_at = time.monotonic() + WITHIN_S
    while not (held := holds()) and time.monotonic() < give_up_at:
        time.sleep(0.2)
    return held


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def in_journal(path: Path) -> set[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return {name for (name,) in connection.execute("SELECT request_id FROM predictions")}


async def test_photos_are_answered_while_heavy_files_are_decoded(attacked: Attacked) -> None:
    bombs = corpus.hostile_files()
    async with client_of(attacked) as client:
        heavy = [asyncio.create_task(classify(client, data)) for data in 2 * worst_files()]
        hostile = [asyncio.create_task(classify(client, bombs[name][0])) for name in BOMBS]
        meanwhile = 0
        while not all(task.done() for task in heavy):
            request_id(await classify(client, GOOD))
            meanwhile += not all(task.done() for task in heavy)
        statuses = {(await task).status_code for task in heavy}
        refused = [(await task).status_code for task in hostile]
    assert meanwhile >= 10
    assert statuses <= {200, 413, 503, 504}
    for name, status in zip(BOMBS, refused, strict=True):
        assert status in (bombs[name][1].status, 503), name  # one that must be decoded may find the queue full


async def test_stages_see_pixels_and_no_other_byte_of_a_file(attacked: Attacked) -> None:
    compared = 0
    async with client_of(attacked) as client:
        for number in range(60):
            plain = corpus.encoded(Image.new("RGB", (64, 48), (4 * number, 255 - 4 * number, 128)))
            odd = plain[:2] + b"\xff\xfe\0\x08attack" + plain[2:] + b"<script>"
            first, second = [
                Verdict.model_validate_json((await classify(client, data)).content) for data in (plain, odd)
            ]
            assert [(each.stage, each.probability) for each in first.stages] == [
                (each.stage, each.probability) for each in second.stages
            ]
            compared += any(each.stage == "vlm" for each in first.stages)
    assert compared >= 3, "the fake models derive what they say from all the bytes that they are given"


async def test_no_file_of_the_server_can_be_read_by_others(attacked: Attacked) -> None:
    async with client_of(attacked) as client:
        request_id(await classify(client, GOOD))
    assert eventually(lambda: attacked.journal().pending == 0)
    found = [path for path in attacked.disk.rglob("*") if not path.is_symlink()]
    assert {"journal.db", "spool"} <= {path.name for path in found}
    assert [path for path in found if path.stat().st_mode & 0o077] == []


async def test_a_killed_decoding_process_harms_its_own_file_alone(attacked: Attacked) -> None:
    ingress = attacked.ingress()
    async with client_of(attacked) as client:
        for _ in range(3):
            files = [asyncio.create_task(classify(client, data)) for data in (*worst_files(), GOOD, GOOD)]
            await asyncio.sleep(0.3)
            killed = children(ingress)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            for response in await asyncio.gather(*files):
                if response.status_code != 200:
                    Problem.model_validate_json(response.content)
            request_id(await classify(client, GOOD))
            assert killed and not set(killed) & set(children(ingress))
    assert attacked.ingress() == ingress


async def test_on_a_full_disk_requests_are_answered_and_what_is_lost_is_counted(attacked: Attacked) -> None:
    if not attacked.small:
        pytest.skip("a small file system cannot be mounted; tests/journal injects the error")
    assert eventually(lambda: attacked.journal().up and attacked.journal().pending == 0)
    before = attacked.journal().dropped
    ballast = fill(attacked.disk)
    sent: set[str] = set()
    async with client_of(attacked) as client:
        full = attacked.journal()
        while full.dropped == before or full.error_code != "ENOSPC":
            sent |= {request_id(answer) for answer in await asyncio.gather(*(classify(client, GOOD) for _ in range(8)))}
            full = attacked.journal()
            assert len(sent) < 2000, "every record had room"
        assert not full.up
        assert (await client.get("/readyz")).json()["journal_error"]
        ballast.unlink()
        sent.add(request_id(await classify(client, GOOD)))
        assert eventually(lambda: attacked.journal().up and attacked.journal().pending == 0)
    missing = sent - in_journal(attacked.disk / "journal.db")
    lost = attacked.journal().dropped - before
    assert 0 < len(missing) <= lost
    audits = 3 + len(sent) // 20  # a fiftieth of all items is audited, those of earlier tests among them
    assert lost - len(missing) <= audits, "no record is counted twice"


async def test_after_the_journals_folder_was_removed_every_later_answer_is_in_it(attacked: Attacked) -> None:
    async with client_of(attacked) as client:
        request_id(await classify(client, GOOD))
        assert eventually(lambda: attacked.journal().up and attacked.journal().pending == 0)
        ingress, before = attacked.ingress(), attacked.journal().dropped
        for path in attacked.disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        sent = {request_id(await classify(client, GOOD)) for _ in range(30)}
        assert eventually(lambda: attacked.journal().up and attacked.journal().pending == 0)
    lost = sent - in_journal(attacked.disk / "journal.db")
    assert len(lost) <= attacked.journal().dropped - before
    assert len(lost) < len(sent) / 2
    assert attacked.ingress() == ingress
