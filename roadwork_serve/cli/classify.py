"""`roadwork classify`: verdicts on files, from a server or from a cascade in this process."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roadwork_serve.cli.options import PolicyName, PrintJson, ProfileName
from roadwork_serve.errors import BadRequest, RoadworkError
from roadwork_serve.local_files import read_problem
from roadwork_serve.printable import writable
from roadwork_serve.progress import progress
from roadwork_serve.terminal import console, echo_json

if TYPE_CHECKING:
    import httpx

    from roadwork_serve.cascade.policy import Policy
    from roadwork_serve.profiles.profile import Profile
    from roadwork_serve.schema import BatchResult, Problem, Verdict

    Classifier = Callable[[bytes, str], Awaitable[Verdict]]  # of the bytes and the name of a file

_CONCURRENT_FILES = 8
_GRACE_S = 30.0  # a server that is loaded finishes late, and a person would rather have the verdict


def classify(
    files: Annotated[list[Path], typer.Argument(help="Photos and clips to classify.", metavar="FILE...")],
    server: Annotated[
        str | None,
        typer.Option(
            help="URL of a running server to use. Without it, this process loads the models of --profile. The API key "
            "is read from ROADWORK_API_KEY.",
            metavar="URL",
        ),
    ] = None,
    as_json: PrintJson = False,
    profile: ProfileName = "cpu",
    policy: PolicyName = None,
    deadline_ms: Annotated[
        int | None, typer.Option(min=1, help="Deadline for each file, in milliseconds. By default the profile's.")
    ] = None,
) -> None:
    """Classify photos and clips: does each show active road work?

    The exit code is 1 if any file could not be classified. With --json the output has the form of
    /v1/classify/batch.
    """
    import asyncio

    from roadwork_serve.cascade.policy_file import load_policy
    from roadwork_serve.cli.tables import print_results
    from roadwork_serve.profiles.load import load_profile

    if server is not None:
        opening = from_server(server, deadline_ms)
    else:
        chosen = load_profile(profile)
        opening = in_process(chosen, load_policy(policy or chosen.policy), deadline_ms)
    with progress() as bar:
        task = bar.add_task("Loading models" if server is None else "Connecting", total=None)

        def start() -> None:
            bar.update(task, description="Classifying", total=len(files))

        result = asyncio.run(classify_files(files, opening, start, lambda: bar.advance(task)))
    if as_json:
        echo_json(result.model_dump_json(indent=2, exclude_none=True))
    else:
        print_results(console(), result)
    if any(entry.problem for entry in result.results):
        raise typer.Exit(1)


async def classify_files(
    paths: Sequence[Path],
    opening: "AbstractAsyncContextManager[Classifier]",
    on_start: Callable[[], None] = lambda: None,
    on_done: Callable[[], None] = lambda: None,
) -> "BatchResult":
    """Classify files concurrently. Returns a verdict or a problem for each, in the order of the paths.

    Args:
        paths: The files.
        opening: Opens the classifier: `from_server(...)` or `in_process(...)`.
        on_start: Called once the classifier is open.
        on_done: Called after each file.

    """
    import asyncio

    from roadwork_serve.schema import BatchEntry, BatchResult

    gate = asyncio.Semaphore(_CONCURRENT_FILES)

    async def entry(path: Path, classifier: "Classifier") -> BatchEntry:
        async with gate:
            try:
                verdict = await classifier(await asyncio.to_thread(path.read_bytes), writable(path.name))
                return BatchEntry(filename=writable(str(path)), verdict=verdict)
            except OSError as error:
                hint = "; `roadwork score` reads folders" if isinstance(error, IsADirectoryError) else ""
                problem = _problem_of(BadRequest(f"the file cannot be read: {read_problem(path, error)}{hint}"))
            except RoadworkError as error:
                problem = _problem_of(error)
            finally:
                on_done()
        return BatchEntry(filename=writable(str(path)), problem=problem)

    async with opening as classifier:
        on_start()
        return BatchResult(results=await asyncio.gather(*(entry(path, classifier) for path in paths)))


@asynccontextmanager
async def from_server(
    url: str, deadline_ms: int | None = None, transport: "httpx.AsyncBaseTransport | None" = None
) -> "AsyncIterator[Classifier]":
    """Yield a classifier that asks a running server. Raises BadRequest when the URL is invalid."""
    from roadwork_serve.client import AsyncClient

    async with AsyncClient(url, grace_s=_GRACE_S, transport=transport) as client:

        async def classifier(data: bytes, name: str) -> "Verdict":
            return await client.classify(data, deadline_ms=deadline_ms, filename=name)

        yield classifier


@asynccontextmanager
async def in_process(
    profile: "Profile", policy: "Policy", deadline_ms: int | None = None
) -> "AsyncIterator[Classifier]":
    """Yield a classifier that runs the cascade of a profile in this process."""
    from roadwork_serve.local_cascade import local_cascade

    async with local_cascade(profile, policy) as cascade:

        async def classifier(data: bytes, _: str) -> "Verdict":
            return await cascade.classify(data, deadline_ms)

        yield classifier


def _problem_of(error: RoadworkError) -> "Problem":
    from roadwork_serve.schema import Problem

    return Problem(type=f"urn:roadwork:problem:{error.slug}", title=error.title, status=error.status, detail=str(error))
