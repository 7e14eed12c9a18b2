import pytest


@pytest.fixture(autouse=True)
def this_process_goes_on_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore what a replica in this process changes, so that later tests are not slowed down."""
    for module in ("stage_replica", "journal_replica"):
        monkeypatch.setattr(f"deployments.{module}.lower_priority", lambda niceness: None)
