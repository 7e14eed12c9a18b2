"""API keys: the key ring, its file, and the command that creates keys."""

import hashlib
import json
import logging
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from roadwork_serve.api.api_keys import FILE_VARIABLE, TEXT_VARIABLE, ApiKey, ApiKeyStore, Keyring, new_key
from roadwork_serve.cli.main import app
from roadwork_serve.errors import ConfigError

SECRET = "rw_" + "Dug-up_road" * 3 + "Signs-slow"  # fixed, since it names tests
KEPT = ApiKey("dashcams", "client", hashlib.sha256(SECRET.encode()).digest(), 600)
OTHER, KEPT_OTHER = new_key("boss", "admin")
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()


def entry(**changes: object) -> str:
    """Return a YAML list with one entry. `changes` replaces fields; None removes one."""
    whole = {"name": "dashcams", "role": "client", "sha256": DIGEST, "per_minute": 600} | changes
    return json.dumps([{name: value for name, value in whole.items() if value is not None}])


def test_a_key_is_random_and_known_by_its_prefix():
    secrets = {new_key("a", "client")[0] for _ in range(50)}
    assert len(secrets) == 50
    assert all(secret.startswith("rw_") and len(secret) == 46 for secret in secrets)


def test_an_entry_is_read_back_as_the_key_it_was_made_for():
    ring = Keyring.from_text(f"{KEPT.entry()}\n{KEPT_OTHER.entry()}\n")
    assert ring.keys == (KEPT, KEPT_OTHER)
    assert ring.find(SECRET) == KEPT and ring.find(OTHER) == KEPT_OTHER


@pytest.mark.parametrize("name", ["123", "1e5", "no", "null", "0x10"])
def test_a_name_that_yaml_would_take_for_something_else_stays_a_name(name: str):
    assert Keyring.from_text(new_key(name, "client")[1].entry()).keys[0].name == name


@pytest.mark.parametrize("presented", ["", "rw_", SECRET[:-1], SECRET + "x", SECRET.upper(), DIGEST, "ä\ud800", " "])
def test_only_the_complete_key_is_found(presented: str):
    assert Keyring.from_text(entry()).find(presented) is None


def test_an_empty_key_ring_accepts_no_key():
    assert Keyring.from_text("[]").find(SECRET) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a list; write one"),
        ("{}", "not a list; write one"),
        ("- [", "not YAML at line 1"),
        ("- {name: !!python/object:os.system x}", "not YAML at line 1"),
        ("[" * 100_000, "not YAML"),
        ("- dashcams", "entry 1 is not a mapping"),
        (entry(name=None), "entry 1: its name must be 1 to 64 letters"),
        (entry(name="a b"), "entry 1: its name must be"),
        (entry(name="x" * 65), "entry 1: its name must be"),
        (entry(name=7), "entry 1: its name must be"),
        (entry(role=None), r"entry 1 \(dashcams\): role is missing; make one with `roadwork key"),
        (entry(role="root"), r"entry 1 \(dashcams\): role is neither client nor admin; write one"),
        (entry(role=["client"]), "role is neither client nor admin"),
        (entry(sha256=None), "sha256 is missing"),
        (entry(sha256="abc"), "sha256 is not 64 hexadecimal digits; write"),
        (entry(sha256=5), "sha256 is not 64 hexadecimal digits"),
        (entry(limit=5), "has an unknown field; the fields are name, role, sha256, per_minute"),
        (entry(per_minute=0), "per_minute is not an integer from 1"),
        (entry(per_minute=True), "per_minute is not an integer"),
        (entry(per_minute=1.5), "per_minute is not an integer"),
        (entry(per_minute="many"), "per_minute is not an integer"),
        (f"{KEPT.entry()}\n{new_key('dashcams', 'admin')[1].entry()}", r"entry 2 \(dashcams\) has the name of entry 1"),
        (f"{KEPT.entry()}\n{KEPT.entry().replace('dash', 'cash')}", r"entry 2 \(cashcams\) has the key of entry 1"),
        (json.dumps([{}] * 1_001), "1,001 keys; the limit is 1,000"),
    ],
)
def test_an_error_names_the_entry_and_the_fix(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        Keyring.from_text(text)


@pytest.mark.parametrize(
    "text",
    [
        entry(sha256=SECRET),
        entry(name=SECRET),
        entry(role=SECRET),
        entry(per_minute=SECRET),
        entry(**{SECRET: 1}),
        f"- {SECRET}: [",
        f"{SECRET}: 1",
        f"- {SECRET}",
        SECRET,
    ],
)
def test_a_misplaced_key_is_not_repeated_in_the_error(text: str):
    with pytest.raises(ConfigError) as caught:
        Keyring.from_text(text)
    assert SECRET[3:] not in str(caught.value)


def test_without_a_setting_there_are_no_keys():
    assert ApiKeyStore.from_environment({}) is None


def test_keys_come_from_the_environment_itself():
    keys = ApiKeyStore.from_environment({TEXT_VARIABLE: entry()})
    assert keys and keys.ring.find(SECRET) == KEPT
    keys.refresh()
    assert keys.ring.find(SECRET) == KEPT


def test_two_sources_of_keys_are_rejected(tmp_path: Path):
    with pytest.raises(ConfigError, match="both set; unset one"):
        ApiKeyStore.from_environment({TEXT_VARIABLE: entry(), FILE_VARIABLE: str(tmp_path / "keys.yaml")})


@pytest.mark.parametrize(
    ("data", "message"),
    [(None, "No such file"), (b"\xff", "not UTF-8 text"), (b"#" * (2**20 + 1), "more than 1,048,576")],
)
def test_an_unreadable_file_prevents_the_start(tmp_path: Path, data: bytes | None, message: str):
    file = tmp_path / "keys.yaml"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(ConfigError, match=message) as caught:
        ApiKeyStore.from_environment({FILE_VARIABLE: str(file)})
    assert str(file) in str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.yaml"
    file.write_text(f"{KEPT.entry()}\n{KEPT_OTHER.entry()}\n")
    return file


def rewrite(file: Path, text: str) -> None:
    """Replace the file as an editor does: by a new file of the same name."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def test_a_key_is_revoked_without_a_restart(file: Path):
    keys = ApiKeyStore.from_file(file)
    rewrite(file, KEPT_OTHER.entry())
    assert keys.ring.find(SECRET) == KEPT
    keys.refresh()
    assert keys.ring.find(SECRET) is None and keys.ring.find(OTHER) == KEPT_OTHER


def test_a_change_that_keeps_the_file_size_is_detected(file: Path):
    keys = ApiKeyStore.from_file(file)
    file.write_text(file.read_text().replace("dashcams", "taxicabs"))
    os.utime(file, ns=(0, 0))
    keys.refresh()
    assert keys.ring.keys[0].name == "taxicabs"


@pytest.mark.parametrize("text", ["", "- {", entry(role="root"), None])
def test_a_file_that_becomes_invalid_keeps_the_old_keys_and_is_logged_once(
    file: Path, text: str | None, caplog: pytest.LogCaptureFixture
):
    keys = ApiKeyStore.from_file(file)
    rewrite(file, text) if text is not None else file.unlink()
    with caplog.at_level(logging.INFO, "ray.serve.roadwork.api_keys"):
        keys.refresh()
        keys.refresh()
    assert keys.ring.find(SECRET) == KEPT
    (logged,) = caplog.messages
    assert "The keys are unchanged" in logged and str(file) in logged
    assert DIGEST not in caplog.text and SECRET not in caplog.text
    rewrite(file, "[]")
    keys.refresh()
    assert keys.ring.find(SECRET) is None


def test_the_command_prints_the_key_to_stdout_and_the_entry_to_stderr():
    result = CliRunner().invoke(app, ["keys", "create", "dashcams", "--role", "client", "--per-minute", "60"])
    assert result.exit_code == 0, result.output
    secret = result.stdout.removesuffix("\n")
    assert secret not in result.stderr
    found = Keyring.from_text(f"{KEPT_OTHER.entry()}\n{result.stderr}").find(secret)
    assert found and (found.name, found.role, found.per_minute) == ("dashcams", "client", 60)


@pytest.mark.parametrize(
    "options", [["a b", "--role", "client"], ["rw_a", "--role", "client"], ["a", "--role", "root"]]
)
def test_the_command_rejects_invalid_entries(options: list[str]):
    result = CliRunner().invoke(app, ["keys", "create", *options])
    assert result.exit_code == 2
    assert "Traceback" not in result.output and "rw_" not in result.stdout


def test_the_command_writes_the_key_and_the_entry_to_private_files(tmp_path: Path):
    out, keys = tmp_path / "ann.key", tmp_path / "keys.yaml"
    mask = os.umask(0o022)
    try:
        for name, file in (("ann", out), ("bob", tmp_path / "bob.key")):
            words = ["keys", "create", name, "--role", "admin", "--out", str(file), "--keys-file", str(keys)]
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, result.output
            assert file.read_text().strip() not in result.output
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    store = ApiKeyStore.from_file(keys)
    assert [key.name for key in store.ring.keys] == ["ann", "bob"]
    found = store.ring.find(out.read_text().strip())
    assert found and found.name == "ann"


def test_the_command_overwrites_no_key_and_adds_no_name_twice(tmp_path: Path):
    out, keys = tmp_path / "ann.key", tmp_path / "keys.yaml"
    keys.write_text(KEPT_OTHER.entry())  # without a newline at its end
    keys.chmod(0o640)
    out.write_text("a key")
    words = ["keys", "create", "ann", "--role", "admin", "--keys-file", str(keys)]
    result = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert result.exit_code == 2 and "already exists" in result.output.replace("\n", " ")
    assert (out.read_text(), keys.read_text()) == ("a key", KEPT_OTHER.entry())
    assert CliRunner().invoke(app, words).exit_code == 0
    assert keys.stat().st_mode & 0o777 == 0o640
    before = keys.read_text()
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "new.key")])
    assert result.exit_code == 2 and "has the name of entry 2" in result.output.replace("\n", " ")
    assert keys.read_text() == before and not (tmp_path / "new.key").exists()
