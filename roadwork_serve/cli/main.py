"""`roadwork`: the command line. Every command imports what it needs when it runs, so that help is instant."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from roadwork_serve.cli.calibrate import calibrate, compare, tune
from roadwork_serve.cli.evaluate import evaluate
from roadwork_serve.cli.export import export
from roadwork_serve.cli.journal import journal
from roadwork_serve.cli.minis import minis
from roadwork_serve.cli.monitor import monitor
from roadwork_serve.cli.policy import policy as policy_commands
from roadwork_serve.cli.retrain import retrain
from roadwork_serve.cli.sample import drift, hard, sample
from roadwork_serve.cli.score import score
from roadwork_serve.cli.train import synthesize, train_head
from roadwork_serve.errors import RoadworkError
from roadwork_serve.progress import progress
from roadwork_serve.ray_environment import RAY


class _Group(TyperGroup):
    """Tells our own errors in a line instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RoadworkError as error:
            typer.secho(f"{error.title}: {error}", fg="red", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(minis, name="minis")
app.add_typer(policy_commands, name="policy")
app.add_typer(journal, name="journal")
for command in (score, evaluate, train_head, calibrate, tune, compare, retrain, synthesize, export, monitor):
    app.command()(command)
for command in (hard, sample, drift):
    journal.command()(command)

_PROJECT = Path(__file__).parents[2]


def _told_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("roadwork-serve"))
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_told_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Is there active road work on this photo or clip?"""


ProfileName = Annotated[str, typer.Option("--profile", help="A profile that ships with the project, or a path.")]
PolicyName = Annotated[str | None, typer.Option("--policy", help="A policy by name or path; the profile's by default.")]


@app.command()
def classify(
    files: Annotated[list[Path], typer.Argument(help="Photos and clips.", metavar="FILE...")],
    url: Annotated[str | None, typer.Option(help="Ask this server; without one the cascade runs here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON as /v1/classify/batch answers it.")] = False,
    profile: ProfileName = "mini",
    policy: PolicyName = None,
    deadline_ms: Annotated[int | None, typer.Option(min=1, help="Answer every file within this time.")] = None,
) -> None:
    """Say of each file whether it shows active road work. Exit code 1 if any file got no verdict."""
    import asyncio

    from rich.console import Console

    from roadwork_serve.cascade.policy_file import load_policy
    from roadwork_serve.cli.classify import classify as classify_files
    from roadwork_serve.cli.classify import from_server, in_process
    from roadwork_serve.cli.render import print_results
    from roadwork_serve.profiles.load import load_profile

    if url is not None:
        asking = from_server(url, deadline_ms)
    else:
        chosen = load_profile(profile)
        asking = in_process(chosen, load_policy(policy or chosen.policy), deadline_ms)
    with progress() as bar:
        task = bar.add_task("Opening the models" if url is None else "Asking", total=None)

        def start() -> None:
            bar.update(task, description="Classifying", total=len(files))

        result = asyncio.run(classify_files(files, asking, start, lambda: bar.advance(task)))
    if as_json:
        typer.echo(result.model_dump_json(indent=2, exclude_none=True))
    else:
        print_results(Console(), result)
    if any(entry.problem for entry in result.results):
        raise typer.Exit(1)


@app.command()
def render(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    count: Annotated[int, typer.Option(min=1)] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Run seed, as for evaluate.")] = 1,
    clips: Annotated[bool, typer.Option("--clips", help="Clips instead of stills.")] = False,
) -> None:
    """Draw scenes of the test track: a file each, manifest.csv with labels, truth.jsonl with what is true of them."""
    import csv
    import json
    from dataclasses import asdict

    from roadwork_serve.schema import MediaKind
    from roadwork_serve.testbed.scene_dataset import draw_scenes, drawing_workers, scene_seed, words_worth_reading

    out.mkdir(parents=True, exist_ok=True)
    kind: MediaKind = "clip" if clips else "photo"
    wanted: list[tuple[int, MediaKind]] = [(scene_seed(seed, index), kind) for index in range(count)]
    with (
        progress() as bar,
        (out / "truth.jsonl").open("w", encoding="utf-8") as truths,
        (out / "manifest.csv").open("w", newline="", encoding="utf-8") as manifest,
    ):
        labels = csv.writer(manifest)
        labels.writerow(("file", "label", "words"))
        for sample in bar.track(draw_scenes(wanted, drawing_workers()), total=count, description="Drawing"):
            (out / sample.about.name).write_bytes(sample.data)
            truth = asdict(sample.truth) if sample.truth else {}
            truths.write(json.dumps({"file": sample.about.name} | truth) + "\n")
            words = "yes" if sample.truth and words_worth_reading(sample.truth) else "no"
            labels.writerow((sample.about.name, "roadwork" if sample.about.label else "none", words))
    typer.echo(f"{count} {kind}s, manifest.csv and truth.jsonl are in {out}")


@app.command()
def serve(
    profile: Annotated[str | None, typer.Option(help="Instead of the one the configuration names.")] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="A file for `serve run` in place of serve_config.yaml.")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="HAProxy in front and gRPC between replicas; read what it warns of.")
    ] = False,
) -> None:
    """Run the server of serve_config.yaml until Ctrl-C. RAY_* variables that are set already stay as they are."""
    import os
    import tempfile

    import yaml

    from roadwork_serve.api.api_keys import FILE_VARIABLE
    from roadwork_serve.errors import ConfigError

    config = _carried("serve_config.yaml") if config_file is None else config_file.resolve()
    if not config.is_file():
        raise ConfigError(f"{config} is not there; give another --config")
    home = _PROJECT if (_PROJECT / "serve_config.yaml").is_file() else Path.cwd()  # a wheel has no project around it
    if profile is not None:
        if profile.endswith((".yaml", ".yml")) or "/" in profile:
            profile = str(Path(profile).resolve())
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        settings["applications"][0].setdefault("args", {})["profile"] = profile
        config = home / "build" / "serve_config.yaml"
        config.parent.mkdir(exist_ok=True)
        config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    environment = dict(RAY)
    if fast:
        from roadwork_serve.haproxy import WARNING, fast_environment

        folder = Path(tempfile.mkdtemp(prefix="rw-"))
        environment |= fast_environment(folder, _carried("ops/haproxy/haproxy.sh"))
        typer.secho(WARNING, fg="yellow", err=True)
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    if keys := os.environ.get(FILE_VARIABLE):
        os.environ[FILE_VARIABLE] = str(Path(keys).resolve())
    os.chdir(home)
    serve_program = str(Path(sys.executable).with_name("serve"))
    os.execv(serve_program, [serve_program, "run", str(config)])  # noqa: S606 - Ray's own program, no shell


def _carried(path: str) -> Path:
    """A file of the project; where a wheel was installed the copy that it carries."""
    found = _PROJECT / path
    return found if found.is_file() else Path(__file__).parents[1] / found.name


@app.command()
def plan_placement(
    profile: ProfileName = "mini",
    gpu: Annotated[
        list[float] | None,
        typer.Option(help="Memory of a card, GiB; once a card. By default the cards that the profile is made for."),
    ] = None,
) -> None:
    """Say what the engines of a profile need of each card; nothing is downloaded. Exit code 2 if it is too much."""
    from rich.console import Console

    from roadwork_serve.cli.render import print_plan
    from roadwork_serve.profiles.load import load_profile
    from roadwork_serve.profiles.plan import plan_placement as planned

    chosen = load_profile(profile)
    print_plan(Console(), planned(chosen, gpu or chosen.cards_gib))


class Role(StrEnum):
    """What the holder of a key may do."""

    client = "client"
    admin = "admin"


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose it is: letters, digits, dots, hyphens and underscores.")],
    role: Annotated[Role, typer.Option(help="client classifies; admin may do everything.")],
    per_minute: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Requests a minute; any number by default.")
    ] = None,
) -> None:
    """Make an API key and print it, once, to stdout. On stderr stands the entry for the server's file of keys."""
    from roadwork_serve.api.api_keys import FILE_VARIABLE, new_key

    secret, kept = new_key(name, role.value, per_minute)
    typer.echo(f"# For the file that the server is told of in {FILE_VARIABLE}; the key itself is in no file.", err=True)
    typer.echo(kept.entry(), err=True)
    typer.echo(secret)
