import time
from pathlib import Path

import pytest

from roadwork_serve.errors import ConfigError
from roadwork_serve.miner.nonces import NonceStore
from roadwork_serve.miner.protocol import Call, CallRejected, nonce_lifetime_s


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
    later = now + int(nonce_lifetime_s(0.0) * 1e9) + 10_000
    for at in range(64):
        nonces.use(call(later + at, uuid="later"), later + at)
    assert len(nonces) <= 64
    assert file.stat().st_size < 500_000


@pytest.mark.parametrize(
    "spoilt",
    [
        b"\0" * 4096, b"\xff\xfe\xdf", b"1795863581", b'"text"', b"null", b'["s", "u"]', b'["s", "u", "3"]',
        b'["s", "u", true]', b'["s", "u", 1.5]', b'[["s"], "u", 3]', b'["s", "v", 17', b"[" * 100_000, b"9" * 5000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_line_that_a_power_cut_spoilt_is_set_aside_and_told(
    tmp_path: Path, spoilt: bytes, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    file, now = tmp_path / "nonces", time.time_ns()
    NonceStore(file).use(call(now))
    good = file.read_bytes()
    file.write_bytes(spoilt + b"\n" + good if place == "before" else good + spoilt)
    with pytest.raises(CallRejected):
        NonceStore(file).use(call(now))
    assert file.read_bytes() == good
    assert (tmp_path / "nonces.damaged").read_bytes() == spoilt + b"\n"
    assert "1 of its lines are left out" in caplog.text and "nonces.damaged" in caplog.text


def test_a_state_folder_below_a_file_is_an_error_of_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/state"):
        with pytest.raises(ConfigError, match="Not a directory; name another folder with --state"):
            NonceStore(folder / "nonces")
    (tmp_path / "nonces").mkdir()
    with pytest.raises(ConfigError, match="nonces cannot be read: Is a directory"):
        NonceStore(tmp_path / "nonces")
