"""Ray is imported once, without its own warnings, which would be errors here."""

import warnings

import pytest

with warnings.catch_warnings(action="ignore"):
    import ray.serve  # noqa: F401


@pytest.fixture(autouse=True)
def this_process_goes_on_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica made in this process must not slow down all the tests behind it."""
    for module in ("stages", "journal"):
        monkeypatch.setattr(f"deployments.{module}.give_way", lambda niceness: None)
