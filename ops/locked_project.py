"""Write a project with the versions of a lock, from which uv makes an SBOM or an audit: FOLDER LOCK [--everything].

A list of requirements is not enough for uv. By default the project has the dependencies of the wheel; --everything
gives it all packages of the lock.
"""

import json
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pins(lock: str) -> list[str]:
    """Return the requirements of a lock, each with one version, without hashes."""
    return [line.removesuffix("\\").strip() for line in lock.splitlines() if "==" in line and line[0] not in "# "]


def project(lock: str, everything: bool) -> str:
    """Return the pyproject.toml."""
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = pins(lock)
    return f"""[project]
name = "{ours["name"]}"
version = "{ours["version"]}"
requires-python = "{ours["requires-python"]}"
dependencies = {_array(pinned if everything else ours["dependencies"])}

[tool.uv]
package = false
override-dependencies = {_array(pinned)}
"""


def _array(strings: list[str]) -> str:
    return json.dumps(strings, indent=4)


def main() -> None:
    """Write FOLDER/pyproject.toml."""
    folder, lock = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(project(lock.read_text(), "--everything" in sys.argv[3:]))
    (folder / "uv.lock").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
