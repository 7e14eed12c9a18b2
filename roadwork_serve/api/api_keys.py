"""API keys with roles and rates. Only the SHA-256 digest of a key is stored."""

import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import yaml

from roadwork_serve.errors import ConfigError

Role = Literal["client", "admin"]

FILE_VARIABLE = "ROADWORK_KEYS_FILE"
TEXT_VARIABLE = "ROADWORK_KEYS"
ADMIN_TOKEN = "admin-token"  # noqa: S105 - the name of a file in the state folder

_LOG = logging.getLogger("ray.serve.roadwork.api_keys")
_PREFIX = "rw_"  # by which scanners for leaked secrets recognise a key
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_MAX_KEYS = 1_000  # each request is compared with all of them: a tenth of a millisecond
_MAX_BYTES = 2**20
_ENTRIES = ("name", "role", "sha256", "per_minute")
_MAKE = "make one with `roadwork keys create NAME --role client`"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key."""

    name: str
    role: Role
    #: SHA-256 of the key, 32 bytes.
    digest: bytes
    #: Limit on requests a minute; None for no limit.
    per_minute: int | None = None

    def entry(self) -> str:
        """Return the line for a file of keys."""
        rate = "" if self.per_minute is None else f", per_minute: {self.per_minute}"
        return f'- {{name: "{self.name}", role: {self.role}, sha256: "{self.digest.hex()}"{rate}}}'


@dataclass(frozen=True, slots=True)
class Keyring:
    """The valid keys. An empty ring admits nobody."""

    keys: tuple[ApiKey, ...] = ()

    def find(self, secret: str) -> ApiKey | None:
        """Return the stored key of a secret, or None. All are compared, so that the time taken reveals nothing."""
        digest, found = _digest(secret), None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    @classmethod
    def from_text(cls, text: str) -> "Keyring":
        """Return the keys of a YAML or JSON list of entries.

        Raises ConfigError naming the entry to fix. It quotes no value, which may be a key in the wrong place.
        """
        try:
            entries = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            raise ConfigError(f"this is not YAML{where}; write a list with an entry for each key; {_MAKE}") from None
        if not isinstance(entries, list):
            raise ConfigError(
                f"this is not a list; write one, with an entry for each key, or [] to admit nobody; {_MAKE}"
            )
        if len(entries) > _MAX_KEYS:
            raise ConfigError(f"there are {len(entries):,} keys; the limit is {_MAX_KEYS:,}")
        keys = tuple(_key(entry, f"entry {at}") for at, entry in enumerate(entries, 1))
        names: dict[str, int] = {}
        digests: dict[bytes, int] = {}
        for at, key in enumerate(keys, 1):
            for field, earlier in (
                ("name", names.setdefault(key.name, at)),
                ("key", digests.setdefault(key.digest, at)),
            ):
                if earlier != at:
                    raise ConfigError(f"entry {at} ({key.name}) has the {field} of entry {earlier}; remove one of them")
        return cls(keys)


class ApiKeyStore:
    """The current keys, which follow the file they came from."""

    def __init__(self, ring: Keyring, file: Path | None = None, signature: object = None) -> None:
        self.ring = ring
        self._file = file
        self._signature = signature

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "ApiKeyStore | None":
        """Return the keys of the file in ROADWORK_KEYS_FILE or of the text in ROADWORK_KEYS; None without either.

        Raises ConfigError if they cannot be read or are invalid.
        """
        file, text = environment.get(FILE_VARIABLE, ""), environment.get(TEXT_VARIABLE, "")
        if file and text:
            raise ConfigError(f"{FILE_VARIABLE} and {TEXT_VARIABLE} are both set; unset one of them")
        if file:
            return cls.from_file(Path(file))
        return cls(_ring(text, TEXT_VARIABLE)) if text else None

    @classmethod
    def from_file(cls, file: Path) -> "ApiKeyStore":
        """Return the keys of a file. Raises ConfigError if it cannot be read or is invalid."""
        signature = _signature(file)
        return cls(_ring(_text(file), str(file)), file, signature)

    @classmethod
    def from_token(cls, file: Path) -> "ApiKeyStore":
        """Return one key of an admin, the secret in a file. Raises ConfigError if it cannot be read."""
        return cls(Keyring((ApiKey("local", "admin", _digest(_text(file).strip())),)))

    def refresh(self) -> None:
        """Load the file again if it has changed. Blocks until it is read.

        If the file is missing or invalid, the keys stay as they are, and the reason is logged once.
        """
        if self._file is None or (signature := _signature(self._file)) == self._signature:
            return
        self._signature = signature
        try:
            self.ring = _ring(_text(self._file), str(self._file))
        except ConfigError as error:
            _LOG.error("The keys are unchanged: %s", error)
        else:
            _LOG.info("Loaded %d keys from %s.", len(self.ring.keys), self._file)


def new_key(name: str, role: Role, per_minute: int | None = None) -> tuple[str, ApiKey]:
    """Return a new random key of 256 bits, and its entry to store. Raises ConfigError for an invalid name."""
    secret = _PREFIX + secrets.token_urlsafe(32)
    return secret, ApiKey(_name(name, "the key"), role, _digest(secret), per_minute)


def add_entry(file: Path, key: ApiKey) -> None:
    """Add a key to a key file, which is made for this user alone if it is missing.

    Raises ConfigError, and changes nothing, if the file cannot be read or written, is invalid, or has the name already.
    """
    old = _text(file) if file.exists() else ""
    separator = "" if old.endswith("\n") or not old else "\n"
    addition = f"{separator}{key.entry()}\n"
    _ring(old + addition, str(file))
    try:
        with os.fdopen(os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600), "a") as opened:
            opened.write(addition)
    except OSError as error:
        raise ConfigError(f"keys in {file}: {error.strerror}; name another --keys-file") from None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _signature(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"keys in {file}: the file has more than {_MAX_BYTES:,} bytes, the limit; remove entries")
        return data.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"keys in {file}: {error.strerror}; correct {FILE_VARIABLE} or the file") from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"keys in {file}: this is not UTF-8 text; write a YAML list with an entry for each key"
        ) from None


def _ring(text: str, source: str) -> Keyring:
    try:
        return Keyring.from_text(text)
    except ConfigError as error:
        raise ConfigError(f"keys in {source}: {error}") from None


def _key(value: object, where: str) -> ApiKey:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is not a mapping; write {{{', '.join(_ENTRIES[:3])}}}; {_MAKE}")
    entry = cast("dict[object, object]", value)
    name = _name(entry.get("name"), where)
    where = f"{where} ({name})"
    for wanted in _ENTRIES[:3]:
        if wanted not in entry:
            raise ConfigError(f"{where}: {wanted} is missing; {_MAKE}")
    if set(entry) - set(_ENTRIES):
        raise ConfigError(f"{where} has an unknown field; the fields are {', '.join(_ENTRIES)}")
    role, digest, per_minute = entry["role"], entry["sha256"], entry.get("per_minute")
    if role not in get_args(Role):
        raise ConfigError(f"{where}: role is neither {' nor '.join(get_args(Role))}; write one of them")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ConfigError(
            f"{where}: sha256 is not 64 hexadecimal digits; write the key's SHA-256 in quotes, never the key itself"
        )
    if per_minute is not None and (type(per_minute) is not int or not 1 <= per_minute <= 1_000_000):
        raise ConfigError(f"{where}: per_minute is not an integer from 1 to 1000000; correct it or leave it out")
    return ApiKey(name, cast("Role", role), bytes.fromhex(digest), cast("int | None", per_minute))


def _name(value: object, where: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value.startswith(_PREFIX):
        raise ConfigError(
            f"{where}: its name must be 1 to 64 letters, digits, dots, hyphens and underscores, "
            f"and must not begin with {_PREFIX} as keys do"
        )
    return value
