import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def this_process_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore what a replica in this process changes: its priority, and the permissions of new files."""
    for module in ("stage_replica", "journal_replica"):
        monkeypatch.setattr(f"deployments.{module}.lower_priority", lambda niceness: None)
    mask = os.umask(0o022)
    yield
    os.umask(mask)
