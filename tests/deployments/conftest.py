import pytest


@pytest.fixture(autouse=True)
def this_process_goes_on_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica made in this process must not slow down all the tests behind it."""
    for module in ("stages", "journal"):
        monkeypatch.setattr(f"deployments.{module}.give_way", lambda niceness: None)
