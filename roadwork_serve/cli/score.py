"""`roadwork score`: replaces this process with `deployments.batch_job`, because the library does not import Ray."""

from pathlib import Path
from typing import Annotated

import typer

from roadwork_serve.cli.options import PolicyName, ProfileName


def score(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DIR|PARQUET|URL",
            help="Files to classify: a folder and everything below it, a Parquet file or a folder of those, with a "
            "column of images or of paths, or any of these at s3://BUCKET/PATH.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="File to write, in the format of its ending: .parquet, .csv or .jsonl. Rejected files go to a second "
            "one beside it."
        ),
    ],
    match: Annotated[
        list[str] | None,
        typer.Option(help="Only files whose path in the folder matches, such as '*.jpg'. Repeat for more patterns."),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help="Column of a Parquet source. By default image, bytes, file or path, whichever exists."),
    ] = None,
    profile: ProfileName = "cpu",
    policy: PolicyName = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of processes, each with a cascade. By default one for each GPU, or core."),
    ] = None,
) -> None:
    """Classify large datasets offline (batch scoring), without a server.

    Runs on Ray Data: on this machine, or on the cluster that RAY_ADDRESS names. Run the same command again to continue
    after an interruption; files added since then are ignored. The exit code is 1 if no file has a verdict.
    """
    import json
    import os
    import sys
    from importlib.util import find_spec

    from roadwork_serve.errors import ConfigError
    from roadwork_serve.ray_environment import ray_environment
    from roadwork_serve.table_files import check_ending

    check_ending(out)
    if missing := [name for name in ("pandas", "pyarrow") if find_spec(name) is None]:
        raise ConfigError(f"{' and '.join(missing)} not installed; pip install 'roadwork-serve[bulk]'")

    job = {
        "source": source,
        "out": str(out.absolute()),
        "match": match or [],
        "column": column,
        "profile": profile,
        "policy": policy,
        "workers": workers,
    }
    for name, value in ray_environment().items():
        os.environ.setdefault(name, value)
    os.execv(sys.executable, [sys.executable, "-m", "deployments.batch_job", json.dumps(job)])  # noqa: S606 - no shell
