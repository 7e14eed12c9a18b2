import pytest


@pytest.fixture(autouse=True)
def nothing_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client keeps the symbols of tokens in the user's home, and reads them from the node where it does not."""
    monkeypatch.setattr("bittensor.config.token_symbols_fresh", lambda network: True)
    monkeypatch.setattr("bittensor.config.load_token_symbols", lambda network: {})
