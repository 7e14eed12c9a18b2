"""`roadwork train-head` and `roadwork synthesize`. Each command imports what it needs when it runs."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roadwork_serve.errors import ConfigError
from roadwork_serve.progress import progress

if TYPE_CHECKING:
    from roadwork_serve.datasets.base import CorruptItem
    from roadwork_serve.engines.features import Head
    from roadwork_serve.heads.cross_validation import CrossReport
    from roadwork_serve.heads.feature_set import FeatureSet
    from roadwork_serve.heads.fit import HeadTraining
    from roadwork_serve.heads.head_metrics import HeadMetrics
    from roadwork_serve.profiles.profile import Profile


class RecipeName(StrEnum):
    """Which features of the backbone."""

    cls = "cls"
    mean = "cls+mean"
    max = "cls+mean+max"


class PainterName(StrEnum):
    """What makes the pictures."""

    scenes = "scenes"
    sdxl = "sdxl"
    cosmos = "cosmos"


def train_head(
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Labelled data, as often as wanted: a folder with roadwork/ and none/ or with a manifest.csv, a CSV "
            "file of columns file,label, natix:FILE.parquet, coco:ANNOTATIONS.json, scenes:N:SEED."
        ),
    ] = None,
    from_journal: Annotated[
        str | None, typer.Option(help="URL of a journal: what people said, else what later stages said.")
    ] = None,
    features: Annotated[
        list[Path] | None, typer.Option(help="Features that --save-features wrote, as often as wanted.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write the head to.")] = None,
    save_features: Annotated[Path | None, typer.Option(help="Write the features to this file too.")] = None,
    cross_validate: Annotated[
        int | None, typer.Option(min=2, help="Judge every item by heads of other groups, in so many folds.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the cross-validation here.")] = None,
    profile: Annotated[str, typer.Option(help="Whose backbone and media limits, by name or path.")] = "mini",
    model: Annotated[str | None, typer.Option(help="Another backbone than the profile's.")] = None,
    policy: Annotated[
        str | None, typer.Option(help="By which later stages of the journal are believed; the profile's by default.")
    ] = None,
    recipe: Annotated[
        RecipeName | None, typer.Option(help="By default all; cls with a journal, which keeps no more.")
    ] = None,
    balance: Annotated[str, typer.Option(help="auto, none, or the share of road work to train for.")] = "auto",
    smoothing: Annotated[float, typer.Option(min=0, max=0.99, help="Of labels that people gave.")] = 0.0,
    mixup: Annotated[float, typer.Option(min=0, help="Alpha by which features are blended; 0 for none.")] = 0.0,
    hidden: Annotated[int, typer.Option(min=1)] = 256,
    held: Annotated[float, typer.Option(min=0.01, max=0.5, help="Share of the groups to stop by.")] = 0.2,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="At most, 200 by default; with --unfreeze exactly, 3 by default.")
    ] = None,
    lr: Annotated[float, typer.Option(min=0, help="Of the head.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0)] = 72,
    may_skip: Annotated[int, typer.Option(min=0, help="CorruptItem files that are left out before giving up.")] = 20,
    cache: Annotated[Path, typer.Option(help="Where features are kept.")] = Path("build/features"),
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of what is in --out.")] = False,
    unfreeze: Annotated[
        bool, typer.Option("--unfreeze", help="Train the backbone too; sharded over the GPUs, if there are any.")
    ] = False,
    backbone_lr: Annotated[float, typer.Option(min=0, help="With --unfreeze.")] = 2e-5,
) -> None:
    """Train a head of stage 1 on the features of its frozen backbone, in seconds once those are there."""
    from roadwork_serve.heads.collect_features import FeatureRequest, collect_features
    from roadwork_serve.heads.fit import HeadTraining
    from roadwork_serve.profiles.load import load_profile

    if not (data or from_journal or features):
        raise typer.BadParameter("give --data, --from-journal or --features")
    if out is None and save_features is None and cross_validate is None:
        raise typer.BadParameter("say with --out FOLDER where the head is to be written")
    settings = HeadTraining(
        recipe=None if recipe is None else recipe.value,
        hidden=hidden,
        balance=_balance(balance),
        smoothing=smoothing,
        mixup=mixup,
        held=held,
        epochs=epochs or 200,
        lr=lr,
        seed=seed,
    )
    chosen = load_profile(profile)
    if unfreeze:
        if from_journal or features or save_features or cross_validate:
            raise typer.BadParameter("--unfreeze learns from files: give --data and --out alone")
        _unfreeze(data or [], chosen, model, settings, epochs or 3, backbone_lr, out or Path(), may_skip, replace)
        return
    wanted = FeatureRequest(data or [], from_journal, features or [], settings.recipe, model, policy, cache, may_skip)
    with _bar("Features") as advance:
        found = collect_features(wanted, chosen, advance)
    _tell_left_out(found.skipped, found.unclear)
    known = found.features
    if save_features is not None:
        from roadwork_serve.heads.feature_set import write_features

        write_features(save_features, known)
        typer.echo(f"{save_features}: {len(known)} rows of {known.model}, {known.recipe}")
    if cross_validate is not None:
        _cross_validate(known, settings, cross_validate, found.shipped, json_file)
    if out is not None:
        from roadwork_serve.heads.train import train_head as trained

        report = trained(known, settings, out, replace=replace)
        typer.echo(
            f"{out}: says {' and '.join(report.outputs)}; {report.taught.n} items in {report.seconds:.1f} s, "
            f"best after epoch {report.best_epoch + 1} of {report.epochs}. On {report.held.n} items of groups it was "
            f"stopped by: {_line(report.held)}. Serve it with features: {{head: {out}}} of stage 1's engine."
        )


def synthesize(
    out: Annotated[Path, typer.Option(help="Folder to write to; what is there already is not made again.")],
    count: Annotated[int, typer.Option(min=1, help="Pictures in all, half of them with road work.")] = 100,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    painter: Annotated[PainterName, typer.Option(help="sdxl and cosmos need a GPU and weights.")] = PainterName.scenes,
    model: Annotated[str | None, typer.Option(help="Folder or hub id of the weights.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="sdxl: folder of road photos to start from, in place of nothing.")
    ] = None,
    strength: Annotated[float, typer.Option(min=0.05, max=1, help="How far sdxl may leave those photos.")] = 0.6,
) -> None:
    """Make labelled pictures: half with one small cone, barrier, worker or machine, half without, hard ones among them.

    Prompts, seeds and labels are written beside them; `roadwork train-head --data OUT` reads the folder.
    """
    from roadwork_serve.testbed.synthesis.generate import synthesize as painted
    from roadwork_serve.testbed.synthesis.generators import open_generator

    chosen = open_generator(painter.value, model, images, strength)
    with _bar("Painting") as advance:
        made = painted(chosen, out, count, seed, lambda: advance(1, count))
    typer.echo(
        f"{out}: {made.there} pictures were there, {made.new} are new; `roadwork train-head --data {out}` reads them."
    )


def _cross_validate(
    known: "FeatureSet", settings: "HeadTraining", count: int, shipped: "Head | None", json_file: Path | None
) -> None:
    from dataclasses import asdict

    from roadwork_serve.atomic_write import write_json
    from roadwork_serve.heads.cross_validation import cross_validate, heads_of

    if shipped is not None and len(shipped.settings.recipe) > len(known.recipe):
        shipped = None
    with _bar("Heads") as advance:
        report = cross_validate(known, settings, count, shipped, _command(), lambda: advance(1, heads_of(count)))
    if json_file is not None:
        write_json(json_file, asdict(report))
    _print_cross(report)


def _print_cross(report: "CrossReport") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("", "accuracy", "AUC", "log loss", "ECE", "hard negatives called road work"):
        table.add_column(name)
    ways = {"heads of other groups": report.head, "  calibrated": report.calibrated, "head beside it": report.shipped}
    for name, each in ways.items():
        if each is not None:
            pooled = each.pooled
            numbers = (f"{value:.3f}" for value in (pooled.accuracy, pooled.auc, pooled.log_loss, pooled.ece))
            table.add_row(name, *numbers, f"{len(each.hard_negatives_said_roadwork)} of {each.hard_negatives}")
    groups = Table(box=None, pad_edge=False)
    for name in ("source", "tp", "fp", "fn", "tn"):
        groups.add_column(name)
    for name, c in report.calibrated.by_source.items():
        groups.add_row(name or "not named", *map(str, (c.tp, c.fp, c.fn, c.tn)))
    Console().print(
        f"{report.n} items in {report.groups} groups, {report.folds} folds", table, "", groups, report.caveat
    )


def _unfreeze(
    data: list[str],
    profile: "Profile",
    model: str | None,
    settings: "HeadTraining",
    epochs: int,
    lr: float,
    out: Path,
    may_skip: int,
    replace: bool,
) -> None:
    from roadwork_serve.atomic_write import check_vacant
    from roadwork_serve.datasets.registry import open_dataset
    from roadwork_serve.engines.weights import weights_folder
    from roadwork_serve.heads.finetune import FinetuneSettings, finetune, load_images

    check_vacant(out, replace)
    shown = load_images([open_dataset(spec) for spec in data], profile.media, may_skip)
    _tell_left_out(shown.skipped, 0)
    start = weights_folder(model or profile.engines[profile.stages["backbone"].engine].model)
    report = finetune(start, shown, settings, FinetuneSettings(epochs=epochs, lr=lr), out, replace_out=replace)
    typer.echo(
        f"{out}: {report.steps} steps in {report.seconds:.0f} s. On {report.held.n} items of other groups: "
        f"{_line(report.held)}; before {_line(report.before)}. Serve it with model: {out} of stage 1's engine."
    )


def _balance(told: str) -> Any:
    if told in ("auto", "none"):
        return None if told == "none" else "auto"
    try:
        return float(told)
    except ValueError:
        raise ConfigError(f"--balance {told}: write auto, none, or a share such as 0.1") from None


def _tell_left_out(skipped: "tuple[CorruptItem, ...]", unclear: int) -> None:
    for each in skipped:
        typer.secho(f"{each.name} is left out: {each.why}", fg="yellow", err=True)
    if unclear:
        typer.echo(f"{unclear} items that people could not tell are left out.", err=True)


def _line(score: "HeadMetrics") -> str:
    return f"accuracy {score.accuracy:.3f}, AUC {score.auc:.3f}, log loss {score.log_loss:.3f}, ECE {score.ece:.3f}"


def _command() -> str:
    return shlex.join(["roadwork", *sys.argv[1:]])


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told how many more are done, and of how many."""
    with progress() as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, advance=done, total=total)
