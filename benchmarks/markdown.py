"""Results and the Markdown tables made from them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def read(results: Path, name: str) -> Result:
    """Return a result by its name in the folder of results."""
    return json.loads((results / f"{name}.json").read_text())


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)
