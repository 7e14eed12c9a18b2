"""`roadwork score`: replaces this process with `deployments.batch_job`, since the library imports no Ray."""

from pathlib import Path
from typing import Annotated

import typer


def score(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DIR|PARQUET|URL",
            help="A folder, with all below it, a Parquet file or a folder of those, with pictures or their paths in a "
            "column, or either of them at s3://BUCKET/PATH.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write; rejects go into another beside it.")],
    match: Annotated[
        list[str] | None, typer.Option(help="Only files whose path in the folder matches, such as '*.jpg'; repeatable.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Of a Parquet file: by default image, bytes, file or path, whichever is there.")
    ] = None,
    profile: Annotated[
        str, typer.Option("--profile", help="A profile that ships with the project, or a path.")
    ] = "mini",
    policy: Annotated[
        str | None, typer.Option("--policy", help="A policy by name or path; the profile's by default.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes with a cascade each; one a card, or core, by default."),
    ] = None,
) -> None:
    """Judge very many files, without a server: the same verdicts, in a Parquet file, and what got none in another.

    Runs on Ray Data: on this machine, or on the cluster that RAY_ADDRESS names. What is broken off goes on when the
    same command is given again; files that have come since are not looked at.
    """
    import json
    import os
    import sys
    from importlib.util import find_spec

    from roadwork_serve.errors import ConfigError
    from roadwork_serve.ray_environment import RAY

    if missing := [name for name in ("pandas", "pyarrow") if find_spec(name) is None]:
        raise ConfigError(f"{' and '.join(missing)} not installed; pip install 'roadwork-serve[bulk]'")

    order = {
        "source": source,
        "out": str(out.absolute()),
        "match": match or [],
        "column": column,
        "profile": profile,
        "policy": policy,
        "workers": workers,
    }
    for name, value in RAY.items():
        os.environ.setdefault(name, value)
    os.execv(sys.executable, [sys.executable, "-m", "deployments.batch_job", json.dumps(order)])  # noqa: S606 - no shell
