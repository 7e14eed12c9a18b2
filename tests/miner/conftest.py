import pytest


@pytest.fixture(autouse=True)
def nothing_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store the client's token symbols, which it otherwise reads from the node, in a home of its own."""
    monkeypatch.setattr("bittensor.config.token_symbols_fresh", lambda network: True)
    monkeypatch.setattr("bittensor.config.load_token_symbols", lambda network: {})
