import pytest


@pytest.fixture(autouse=True)
def nothing_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a separate home with the client's token symbols, which it otherwise reads from the node."""
    monkeypatch.setattr("bittensor.config.token_symbols_fresh", lambda network: True)
    monkeypatch.setattr("bittensor.config.load_token_symbols", lambda network: {})
