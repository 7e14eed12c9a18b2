"""`roadwork`: the command line. Every command imports what it needs when it runs, so that help is instant."""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from roadwork_serve.errors import RoadworkError
from roadwork_serve.governing import policy as policy_commands
from roadwork_serve.minis.commands import minis

if TYPE_CHECKING:
    from rich.progress import Progress


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
    help="Is there active road work on this photo or clip?",
)
app.add_typer(minis, name="minis")
app.add_typer(policy_commands, name="policy")

_PROJECT = Path(__file__).parent.parent
RAY = {  # what Ray must find in the environment: `make serve`, the demo and the tests all have it from here
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a node of its own on the loopback address
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(256 * 2**20),  # fits small machines
    "RAY_AUTH_MODE": "disabled",  # no token is written to the user's home; the dashboard listens on loopback only
    "RAY_process_group_cleanup_enabled": "1",  # what a replica started ends with it: vLLM's engine
    "RAY_worker_niceness": "0",  # by default replicas give way to whatever else runs on the machine
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a dead proxy is replaced after three of them, 30 s by default
}

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

    from roadwork_serve.cascade.load import load_policy
    from roadwork_serve.classify import classify as classify_files
    from roadwork_serve.classify import from_server, in_process
    from roadwork_serve.profiles.load import load_profile
    from roadwork_serve.tables import print_results

    if url is not None:
        asking = from_server(url, deadline_ms)
    else:
        chosen = load_profile(profile)
        asking = in_process(chosen, load_policy(policy or chosen.policy), deadline_ms)
    with _progress() as bar:
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
def evaluate(
    scenes: Annotated[int | None, typer.Option(min=1, help="Judge this many rendered scenes, 1 in 10 a clip.")] = None,
    photos: Annotated[Path | None, typer.Option(help="Judge the real photos of a folder with a manifest.csv.")] = None,
    seed: Annotated[
        int,
        typer.Option(min=1, help="Run seed: scene i has the seed SEED x 1,000,000 + i; training used smaller ones."),
    ] = 9001,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    rows_file: Annotated[Path | None, typer.Option("--rows", help="Write every item here, as JSON lines.")] = None,
    ask_everyone: Annotated[
        bool, typer.Option(help="Let every stage speak on every item, as fitting a policy needs it.")
    ] = False,
    profile: ProfileName = "mini",
    policy: PolicyName = None,
) -> None:
    """Measure the cascade: accuracy, calibration, where items leave, and what it saves.

    The fast VLM also judges every still that does not reach it, to compare with.
    """
    import asyncio
    import time
    from contextlib import closing

    from rich.console import Console

    from roadwork_serve.cascade.load import load_policy
    from roadwork_serve.learn.evaluation import evaluate as evaluated
    from roadwork_serve.learn.evaluation import write_report
    from roadwork_serve.learn.judging import judge_samples
    from roadwork_serve.learn.photos import photo_abouts, photo_report, photo_samples
    from roadwork_serve.learn.rows import write_rows
    from roadwork_serve.learn.samples import draw_scenes, drawing_workers, scene_track
    from roadwork_serve.local import local_cascade
    from roadwork_serve.profiles.load import load_profile
    from roadwork_serve.profiles.profile import STAGES
    from roadwork_serve.tables import print_report

    if (scenes is None) == (photos is None):
        raise typer.BadParameter("give one of --scenes N and --photos DIR")
    chosen = load_profile(profile)
    rules = load_policy(policy or chosen.policy)
    if photos is not None:
        abouts = photo_abouts(photos)
        samples, total = photo_samples(photos, abouts), len(abouts)
    else:
        track = scene_track(scenes or 0, seed)
        samples, total = draw_scenes(track, drawing_workers()), len(track)
    began = time.monotonic()

    async def run(bar: "Progress") -> Any:
        task = bar.add_task("Opening the models", total=None)
        async with local_cascade(chosen, rules) as cascade:
            bar.update(task, description="Judging", total=total)
            also = STAGES if ask_everyone else ("vlm",)
            return await judge_samples(samples, cascade, also, lambda: bar.advance(task))

    with closing(samples), _progress() as bar:
        rows, failed = asyncio.run(run(bar))
    report = evaluated(
        rows,
        failed,
        rules,
        chosen.name,
        photos=None if photos is None else photo_report(rows),
        seed=None if scenes is None else seed,
        command=shlex.join(["roadwork", *sys.argv[1:]]),
        elapsed_s=time.monotonic() - began,
    )
    if rows_file is not None:
        write_rows(rows_file, rows)
    if json_file is not None:
        write_report(json_file, report)
    print_report(Console(), report)
    if failed:
        raise typer.Exit(1)


@app.command()
def render(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    count: Annotated[int, typer.Option(min=1)] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Run seed, as for evaluate.")] = 1,
    clips: Annotated[bool, typer.Option("--clips", help="Clips instead of stills.")] = False,
) -> None:
    """Draw scenes of the test track: a file each, and truth.jsonl with what is true of them."""
    import json
    from dataclasses import asdict

    from roadwork_serve.learn.samples import draw_scenes, drawing_workers, scene_seed
    from roadwork_serve.schema import MediaKind

    out.mkdir(parents=True, exist_ok=True)
    kind: MediaKind = "clip" if clips else "photo"
    wanted: list[tuple[int, MediaKind]] = [(scene_seed(seed, index), kind) for index in range(count)]
    with _progress() as bar, (out / "truth.jsonl").open("w", encoding="utf-8") as truths:
        for sample in bar.track(draw_scenes(wanted, drawing_workers()), total=count, description="Drawing"):
            (out / sample.about.name).write_bytes(sample.data)
            truth = asdict(sample.truth) if sample.truth else {}
            truths.write(json.dumps({"file": sample.about.name} | truth) + "\n")
    typer.echo(f"{count} {kind}s and truth.jsonl are in {out}")


@app.command()
def serve(
    profile: Annotated[str | None, typer.Option(help="Instead of the one serve_config.yaml names.")] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="HAProxy in front and gRPC between replicas; read what it warns of.")
    ] = False,
) -> None:
    """Run the server of serve_config.yaml until Ctrl-C. RAY_* variables that are set already stay as they are."""
    import os
    import tempfile

    import yaml

    from roadwork_serve.errors import ConfigError
    from roadwork_serve.keys import FILE_VARIABLE

    config = _PROJECT / "serve_config.yaml"
    if not config.is_file():
        raise ConfigError(f"{config} is not there; run this in a checkout of the project, with `make serve`")
    if profile is not None:
        if profile.endswith((".yaml", ".yml")) or "/" in profile:
            profile = str(Path(profile).resolve())
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        settings["applications"][0].setdefault("args", {})["profile"] = profile
        config = _PROJECT / "build" / "serve_config.yaml"
        config.parent.mkdir(exist_ok=True)
        config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    environment = dict(RAY)
    if fast:
        from roadwork_serve.fast import WARNING, fast_environment

        folder = Path(tempfile.mkdtemp(prefix="rw-"))
        environment |= fast_environment(folder, _PROJECT / "ops/haproxy/haproxy.sh")
        typer.secho(WARNING, fg="yellow", err=True)
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    if keys := os.environ.get(FILE_VARIABLE):
        os.environ[FILE_VARIABLE] = str(Path(keys).resolve())
    os.chdir(_PROJECT)
    serve_program = str(Path(sys.executable).with_name("serve"))
    os.execv(serve_program, [serve_program, "run", str(config)])  # noqa: S606 - Ray's own program, no shell


@app.command()
def plan(
    profile: ProfileName = "mini",
    gpu: Annotated[
        list[float] | None,
        typer.Option(help="Memory of a card, GiB; once a card. By default the cards that the profile is made for."),
    ] = None,
) -> None:
    """Say what the engines of a profile need of each card; nothing is downloaded. Exit code 2 if it is too much."""
    from rich.console import Console

    from roadwork_serve.profiles.load import load_profile
    from roadwork_serve.profiles.plan import plan as planned
    from roadwork_serve.tables import print_plan

    chosen = load_profile(profile)
    print_plan(Console(), planned(chosen, gpu or chosen.cards_gib))


class Precision(StrEnum):
    """What the weights of an export are kept in."""

    fp32 = "fp32"
    fp16 = "fp16"


class Format(StrEnum):
    """What stage 1 is exported to."""

    onnx = "onnx"
    tensorrt = "tensorrt"


@app.command()
def export(
    out: Annotated[
        Path | None, typer.Option(help="ONNX file to write; a TensorRT plan comes to lie beside it.")
    ] = None,
    to: Annotated[Format, typer.Option("--to", help="tensorrt builds for the GPU of this machine.")] = Format.onnx,
    model: Annotated[
        str, typer.Option(help="Backbone: mini:backbone, a folder, a hub id, or for tensorrt an exported ONNX file.")
    ] = "mini:backbone",
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of a hub id.")] = None,
    head: Annotated[Path | None, typer.Option(help="Folder with head.json, when not beside the weights.")] = None,
    precision: Annotated[Precision, typer.Option(help="Of the weights and the arithmetic.")] = Precision.fp32,
    side: Annotated[int, typer.Option(min=16, help="Side of the thumbs, pixels, as media.thumb_side.")] = 224,
    max_thumbs: Annotated[int, typer.Option(min=1, help="Largest batch a TensorRT plan takes.")] = 64,
) -> None:
    """Write stage 1, backbone and head, as one file for another runtime, and check it against PyTorch."""
    file = Path(model) if to is Format.tensorrt and model.endswith(".onnx") else None
    if file is None:
        from roadwork_serve.engines.export import export_onnx

        if out is None:
            raise typer.BadParameter("say with --out FILE.onnx where it is to be written")
        done = export_onnx(model, out, precision=precision.value, side=side, head=head, revision=revision)
        typer.echo(
            f"{done.file}: {done.megabytes:.1f} MB, onnx, {precision.value}; run by onnxruntime its logits are at most "
            f"{done.difference:.2g} off those of PyTorch in fp32. Serve it with an engine {{runs: onnx, model: {out}}}."
        )
        if done.data:
            typer.echo(f"Its weights are in {done.data}, which must stay beside it.")
        file = out
    if to is Format.tensorrt:
        from roadwork_serve.engines.tensorrt import TensorRtBackbone

        built = TensorRtBackbone(file, max_thumbs=max_thumbs)
        typer.echo(
            f"{built.path}: for {built.plan.gpu} and TensorRT {built.plan.tensorrt}, batches up to "
            f"{built.plan.largest}, built in {built.plan.build_s:.0f} s; its logits are at most "
            f"{built.plan.difference:.2g} off those of PyTorch in fp32. Serve it with an engine "
            f"{{runs: tensorrt, model: {file}, device: cuda, num_gpus: ...}}."
        )


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
    from roadwork_serve.keys import FILE_VARIABLE, new_key

    secret, kept = new_key(name, role.value, per_minute)
    typer.echo(f"# For the file that the server is told of in {FILE_VARIABLE}; the key itself is in no file.", err=True)
    typer.echo(kept.entry(), err=True)
    typer.echo(secret)


def _progress() -> "Progress":
    """A bar on stderr, so that stdout can be piped; it goes when done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
