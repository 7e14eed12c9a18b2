"""One running server with fake models for all attacks here; its journal is on a small disk where that is permitted."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks import fake_models
from benchmarks.server import session, started
from benchmarks.soak.samples import role
from benchmarks.usage import title
from roadwork_serve.schema import JournalLoad, Stats
from tests.tmpfs import small_disk

DISK_KIB = 8 * 1024


@dataclass(frozen=True)
class Attacked:
    """A running server. disk: folder of its journal. small: whether that is a small disk."""

    url: str
    pid: int
    disk: Path
    small: bool

    def journal(self) -> JournalLoad:
        """Return the state of its journal."""
        response = httpx.get(f"{self.url}/v1/stats", timeout=20)
        found = Stats.model_validate_json(response.content).replicas[0].journal
        assert found is not None
        return found

    def ingress(self) -> int:
        """Return the process of the ingress."""
        for pid in session(self.pid):
            with suppress(OSError):
                if role(title(pid)) == "Ingress":
                    return pid
        raise AssertionError("there is no ingress")


@pytest.fixture(scope="package")
def attacked() -> Iterator[Attacked]:
    """Yield the server when it is ready."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="rw-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        disk, small = folder / "disk", True
        try:
            stack.enter_context(small_disk(disk, DISK_KIB))
        except pytest.skip.Exception:
            small = False
        overrides: dict[str, Any] = fake_models.overrides({"vlm": 5.0})
        overrides["ingress"] |= {"decode_processes": 2}
        overrides["journal"] = {
            "url": f"sqlite:///{disk / 'journal.db'}",
            "spool_folder": str(disk / "spool"),
            "media_folder": str(disk / "media"),
        }
        args = {"profile": "mini", "overrides": overrides}
        server = stack.enter_context(started(folder / "log", args, builder=fake_models.BUILDER))
        yield Attacked(server.url, server.pid, disk, small)
