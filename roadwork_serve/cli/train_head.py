"""`roadwork train-head`. It imports what it needs when it runs."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roadwork_serve.cli.options import LabeledData, ProfileName
from roadwork_serve.errors import ConfigError
from roadwork_serve.printable import writable
from roadwork_serve.progress import progress
from roadwork_serve.terminal import console, echo

if TYPE_CHECKING:
    from roadwork_serve.datasets.base import CorruptItem
    from roadwork_serve.engines.features import Head
    from roadwork_serve.engines.patch_head import PatchHead
    from roadwork_serve.heads.cross_validation import CrossReport
    from roadwork_serve.heads.feature_set import FeatureSet
    from roadwork_serve.heads.fit import HeadTraining
    from roadwork_serve.heads.head_metrics import HeadMetrics
    from roadwork_serve.heads.patches import PatchReport
    from roadwork_serve.profiles.profile import Profile


class RecipeName(StrEnum):
    """The backbone features that a head uses."""

    cls = "cls"
    mean = "cls+mean"
    max = "cls+mean+max"


def train_head(
    data: LabeledData = None,
    journal: Annotated[
        str | None,
        typer.Option(
            help="URL of a journal to learn from: human labels where they exist, otherwise the predictions of later "
            "stages.",
            metavar="URL",
        ),
    ] = None,
    features: Annotated[
        list[Path] | None, typer.Option(help="Features file that --save-features wrote. Repeat for more.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write the head to.")] = None,
    save_features: Annotated[Path | None, typer.Option(help="Also write the features to this file.")] = None,
    cross_validate: Annotated[
        int | None, typer.Option(min=2, help="Cross-validate with this many folds, each group of items in one fold.")
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write the results of the cross-validation to this JSON file.")
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="JSON Lines with boxes on files of --data: also train a patch head, which shows where evidence is."
        ),
    ] = None,
    profile: ProfileName = "cpu",
    model: Annotated[
        str | None, typer.Option(help="Backbone to use: a folder or hub id. By default the profile's.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Policy whose calibration converts predictions in the journal into labels. By default the profile's."
        ),
    ] = None,
    recipe: Annotated[
        RecipeName | None,
        typer.Option(help="Features to use. By default all; cls with a journal, which stores no others."),
    ] = None,
    positive_prior: Annotated[
        str,
        typer.Option(help="Share of road work to train for: a number, auto (0.5), or none (the data's own share)."),
    ] = "auto",
    label_smoothing: Annotated[
        float, typer.Option(min=0, max=0.99, help="Move human labels by this amount towards 0.5.")
    ] = 0.0,
    mixup: Annotated[float, typer.Option(min=0, help="Alpha of mixup, which blends features; 0 disables it.")] = 0.0,
    hidden: Annotated[int, typer.Option(min=0, help="Width of the head's hidden layer; 0 for a linear head.")] = 256,
    val_fraction: Annotated[
        float, typer.Option(min=0.01, max=0.5, help="Share of the groups to validate on, for early stopping.")
    ] = 0.2,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Largest number of epochs (default 200); with --unfreeze the exact number (default 3)."
        ),
    ] = None,
    lr: Annotated[float, typer.Option(min=0, help="Learning rate of the head.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 72,
    max_skipped: Annotated[
        int, typer.Option(min=0, help="Largest number of corrupt files to skip before giving up.")
    ] = 20,
    cache: Annotated[Path, typer.Option(help="Folder to cache features in.")] = Path("build/features"),
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite --out.")] = False,
    unfreeze: Annotated[
        bool, typer.Option("--unfreeze", help="Fine-tune the backbone, too; sharded over the GPUs, if there are any.")
    ] = False,
    backbone_lr: Annotated[float, typer.Option(min=0, help="Learning rate of the backbone; needs --unfreeze.")] = 2e-5,
) -> None:
    """Train a head for stage 1 on the features of its frozen backbone.

    Give --data, --journal or --features, and --out. Once the features are computed, this takes seconds. --unfreeze
    fine-tunes the whole model instead.
    """
    from roadwork_serve.heads.collect_features import FeatureRequest, collect_features
    from roadwork_serve.heads.fit import HeadTraining
    from roadwork_serve.profiles.load import load_profile

    if not (data or journal or features):
        raise typer.BadParameter("give --data, --journal or --features")
    if out is None and save_features is None and cross_validate is None:
        raise typer.BadParameter("give --out FOLDER, where to write the head")
    settings = HeadTraining(
        recipe=None if recipe is None else recipe.value,
        hidden=hidden,
        positive_prior=_positive_prior(positive_prior),
        label_smoothing=label_smoothing,
        mixup=mixup,
        val_fraction=val_fraction,
        epochs=epochs or 200,
        lr=lr,
        seed=seed,
    )
    chosen = load_profile(profile)
    if boxes is not None and not (data and out):
        raise typer.BadParameter("--boxes belong to files: give --data and --out")
    if unfreeze and boxes is not None:
        raise typer.BadParameter("--boxes train on a frozen backbone: leave out --unfreeze")
    if unfreeze:
        if journal or features or save_features or cross_validate:
            raise typer.BadParameter("--unfreeze trains on files: give --data and --out alone")
        _unfreeze(data or [], chosen, model, settings, epochs or 3, backbone_lr, out or Path(), max_skipped, replace)
        return
    wanted = FeatureRequest(data or [], journal, features or [], settings.recipe, model, policy, cache, max_skipped)
    with _bar("Features") as advance:
        found = collect_features(wanted, chosen, advance)
    _print_skipped(found.skipped, found.unclear)
    known = found.features
    if save_features is not None:
        from roadwork_serve.heads.feature_set import write_features

        write_features(save_features, known)
        echo(f"{save_features}: {len(known)} rows of {known.model}, {known.recipe}")
    if cross_validate is not None:
        _cross_validate(known, settings, cross_validate, found.bundled_head, report_file)
    if out is not None:
        from roadwork_serve.atomic_write import check_vacant
        from roadwork_serve.heads.train import train_head as trained

        check_vacant(out, replace)
        patches = None if boxes is None else _patch_head(boxes, data or [], chosen, model, seed)
        report = trained(known, settings, out, replace=replace, patches=patches)
        echo(
            f"{out}: predicts {' and '.join(report.outputs)}; {report.train_metrics.n} items in "
            f"{report.seconds:.1f} s, best after epoch {report.best_epoch + 1} of {report.epochs}. "
            f"On {report.val_metrics.n} validation "
            f"items: {_line(report.val_metrics)}. Serve it with features: {{head: {out}}} of stage 1's engine."
        )


def _patch_head(
    file: Path, data: list[str], profile: "Profile", model: str | None, seed: int
) -> "tuple[PatchHead, PatchReport]":
    from roadwork_serve.datasets.registry import open_dataset
    from roadwork_serve.heads.extract import extractor
    from roadwork_serve.heads.patches import read_boxes, train_patch_head

    known = read_boxes(file)
    engine = extractor(profile, "cls", model).engine
    datasets = [open_dataset(spec, profile.task) for spec in data]
    total = sum(len(each.items()) for each in datasets)
    with _bar("Patches") as advance:
        found = train_patch_head(engine, datasets, known, profile.media, seed, lambda done: advance(done, total))
    report = found[1]
    echo(
        f"Patch head: {', '.join(report.classes)}; from {report.boxed} photos with boxes, and {report.empty} without "
        "road work."
    )
    return found


def _cross_validate(
    known: "FeatureSet", settings: "HeadTraining", count: int, shipped: "Head | None", report_file: Path | None
) -> None:
    from dataclasses import asdict

    from roadwork_serve.atomic_write import write_json
    from roadwork_serve.heads.cross_validation import cross_validate, head_count

    if shipped is not None and len(shipped.settings.recipe) > len(known.recipe):
        shipped = None
    with _bar("Heads") as advance:
        report = cross_validate(known, settings, count, shipped, _command(), lambda: advance(1, head_count(count)))
    if report_file is not None:
        write_json(report_file, asdict(report))
    _print_cross(report)


def _print_cross(report: "CrossReport") -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("", "accuracy", "AUC", "log loss", "ECE", "hard negatives classified as road work"):
        table.add_column(name)
    variants = {"cross-validated head": report.head, "  calibrated": report.calibrated, "bundled head": report.bundled}
    for name, each in variants.items():
        if each is not None:
            pooled = each.pooled
            numbers = (f"{value:.3f}" for value in (pooled.accuracy, pooled.auc, pooled.log_loss, pooled.ece))
            table.add_row(name, *numbers, f"{len(each.hard_negative_false_positives)} of {each.hard_negatives}")
    groups = Table(box=None, pad_edge=False)
    for name in ("source", "tp", "fp", "fn", "tn"):
        groups.add_column(name)
    for name, c in report.calibrated.by_source.items():
        groups.add_row(name or "unknown", *map(str, (c.tp, c.fp, c.fn, c.tn)))
    console().print(
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
    max_skipped: int,
    replace: bool,
) -> None:
    from roadwork_serve.atomic_write import check_vacant
    from roadwork_serve.datasets.registry import open_dataset
    from roadwork_serve.engines.weights import weights_folder
    from roadwork_serve.heads.finetune import FinetuneSettings, finetune, load_images

    check_vacant(out, replace)
    shown = load_images([open_dataset(spec, profile.task) for spec in data], profile.media, max_skipped)
    _print_skipped(shown.skipped, 0)
    start = weights_folder(model or profile.engines[profile.stages["backbone"].engine].model)
    report = finetune(start, shown, settings, FinetuneSettings(epochs=epochs, lr=lr), out, replace_out=replace)
    echo(
        f"{out}: {report.steps} steps in {report.seconds:.0f} s. On {report.val_metrics.n} items of other groups: "
        f"{_line(report.val_metrics)}; before {_line(report.val_metrics_before)}. Serve it with "
        f"model: {out} of stage 1's engine."
    )


def _positive_prior(text: str) -> Any:
    if text in ("auto", "none"):
        return None if text == "none" else "auto"
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--positive-prior {text}: write auto, none, or a share such as 0.1") from None


def _print_skipped(skipped: "tuple[CorruptItem, ...]", unclear: int) -> None:
    for each in skipped:
        echo(f"{each.name} is skipped: {each.reason}", color="yellow", err=True)
    if unclear:
        echo(f"{unclear} items with the human label unclear are skipped.", err=True)


def _line(score: "HeadMetrics") -> str:
    return f"accuracy {score.accuracy:.3f}, AUC {score.auc:.3f}, log loss {score.log_loss:.3f}, ECE {score.ece:.3f}"


def _command() -> str:
    return writable(shlex.join(["roadwork", *sys.argv[1:]]))


@contextmanager
def _bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar. Yields a function to call with the number of items just done, and the total."""
    with progress() as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, advance=done, total=total)
