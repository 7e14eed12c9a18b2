import time
from pathlib import Path

import pytest

from roadwork_serve.miner.nonces import NonceStore
from roadwork_serve.miner.protocol import NONCE_LIFETIME_S, Call, CallRejected


def call(nonce: int, uuid: str = "u", sender: str = "s") -> Call:
    return Call("ImageSynapse", sender, "me", nonce, uuid, b"", 9.0)


def test_a_nonce_is_used_once_also_after_a_restart(tmp_path: Path) -> None:
    now, file = time.time_ns(), tmp_path / "state/nonces"
    NonceStore(file).use(call(now))
    again = NonceStore(file)
    with pytest.raises(CallRejected, match="has been used"):
        again.use(call(now))
    again.use(call(now + 1))
    again.use(call(now, uuid="another"))
    again.use(call(now, sender="another"))
    assert len(NonceStore(file)) == 3


def test_a_truncated_file_is_read_up_to_the_damage(tmp_path: Path) -> None:
    file, now = tmp_path / "nonces", time.time_ns()
    NonceStore(file).use(call(now))
    file.write_text(file.read_text() + '["s", "v", 17')
    with pytest.raises(CallRejected):
        NonceStore(file).use(call(now))


def test_stale_nonces_are_forgotten_in_memory_and_on_disk(tmp_path: Path) -> None:
    file, now = tmp_path / "nonces", time.time_ns()
    nonces = NonceStore(file)
    for at in range(5000):
        nonces.use(call(now + at, uuid=str(at)), now)
    later = now + int(NONCE_LIFETIME_S * 1e9) + 10_000
    for at in range(64):
        nonces.use(call(later + at, uuid="later"), later + at)
    assert len(nonces) <= 64
    assert file.stat().st_size < 500_000
