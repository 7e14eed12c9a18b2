"""`roadwork evaluate`. It imports what it needs when it runs."""

import shlex
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roadwork_serve.cli.options import LabeledData, PolicyName, ProfileName, ReportFile
from roadwork_serve.printable import writable
from roadwork_serve.progress import progress
from roadwork_serve.terminal import console

if TYPE_CHECKING:
    from roadwork_serve.datasets.base import Dataset
    from roadwork_serve.datasets.samples import Sample
    from roadwork_serve.evaluation.run import Failure
    from roadwork_serve.profiles.task import Task


@dataclass(frozen=True, slots=True)
class _Source:
    """The items to evaluate."""

    samples: "Generator[Sample]"
    #: Number of samples, corrupt ones included.
    total: int
    #: Corrupt items, some of which are found only while the samples are read.
    left_out: "list[Failure]" = field(default_factory=list["Failure"])


def evaluate(
    scenes: Annotated[
        int | None, typer.Option(min=1, help="Evaluate this many synthetic scenes; one in ten is a clip.")
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Evaluate the real photos of a folder with a manifest.csv.")
    ] = None,
    data: LabeledData = None,
    exclude_source: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out the items of this source, such as one that a model was trained on; repeat for more. "
            "Sources that weights declare in their training.json are reported apart anyway.",
            metavar="NAME",
        ),
    ] = None,
    reward: Annotated[
        bool,
        typer.Option("--reward", help="Generate Subnet 72's challenges from --data, and estimate the reward."),
    ] = False,
    challenges: Annotated[int, typer.Option(min=1, help="Number of challenges; needs --reward.")] = 500,
    seed: Annotated[
        int,
        typer.Option(
            min=1,
            help="Seed of the run. Scene i gets SEED x 1,000,000 + i; training used smaller seeds. With --reward, the "
            "seed of the challenges.",
        ),
    ] = 9001,
    report_file: ReportFile = None,
    rows_file: Annotated[
        Path | None, typer.Option("--rows", help="Write the predictions on every item to this JSON Lines file.")
    ] = None,
    all_stages: Annotated[
        bool, typer.Option("--all-stages", help="Run every stage on every item, as calibrating a policy needs it.")
    ] = False,
    profile: ProfileName = "cpu",
    policy: PolicyName = None,
    head: Annotated[Path | None, typer.Option(help="Folder of a head for stage 1 to use.")] = None,
) -> None:
    """Measure accuracy, calibration, exits and compute on labeled data.

    The fast VLM also runs on every photo that does not reach it, for comparison. Where photos have a source, stage 1
    and the cascade are also reported by source. The exit code is 1 if any file got no verdict, or if there was none.
    """
    import asyncio
    import time

    from roadwork_serve.calibration.sources import with_head
    from roadwork_serve.cascade.policy_file import load_policy
    from roadwork_serve.cli.tables import print_report
    from roadwork_serve.evaluation.challenges import subnet_score
    from roadwork_serve.evaluation.report import evaluate as measure
    from roadwork_serve.evaluation.report import write_report
    from roadwork_serve.evaluation.rows import EvaluationRow, write_rows
    from roadwork_serve.evaluation.run import evaluate_samples
    from roadwork_serve.evaluation.seen_data import seen_data
    from roadwork_serve.local_cascade import local_cascade
    from roadwork_serve.profiles.load import load_profile
    from roadwork_serve.profiles.stage_kinds import stage_names
    from roadwork_serve.table_files import check_ending

    if sum((scenes is not None, photos is not None, bool(data))) != 1:
        raise typer.BadParameter("give one of --scenes N, --photos DIR and --data")
    if reward and not data:
        raise typer.BadParameter("--reward makes its challenges of --data, such as --data scenes:2000")
    if exclude_source and (reward or scenes is not None):
        raise typer.BadParameter("--exclude-source goes with --photos or --data, without --reward")
    if report_file is not None:
        check_ending(report_file, (".json",))
    if rows_file is not None:
        check_ending(rows_file, (".jsonl",))
    excluded = frozenset(exclude_source or ())
    chosen = load_profile(profile)
    chosen_policy = with_head(load_policy(policy or chosen.policy), head)
    if head is not None:
        chosen = chosen.with_policy_heads(head.absolute().parent)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="roadwork-") as folder, progress() as bar:

        async def run(source: _Source) -> "tuple[list[EvaluationRow], list[Failure]]":
            task = bar.add_task("Loading models", total=None)
            async with local_cascade(chosen, chosen_policy) as cascade:
                bar.update(task, description="Evaluating", total=source.total)
                also = stage_names() if all_stages else ("vlm",)
                return await evaluate_samples(source.samples, cascade, also, lambda: bar.advance(task))

        if data and reward:
            task = bar.add_task("Making challenges", total=challenges)
            source = _challenges(data, chosen.task, challenges, seed, Path(folder), lambda: bar.advance(task))
            bar.remove_task(task)
        elif data or photos is not None:
            source = _labeled(_open(data, chosen.task) if data else [_photos(photos or Path(), chosen.task)], excluded)
        else:
            source = _scenes(scenes or 0, seed)
        with closing(source.samples):
            rows, failed = asyncio.run(run(source))
    failed += source.left_out
    report = measure(
        rows,
        failed,
        chosen_policy,
        chosen.name,
        seen=seen_data(chosen, chosen_policy),
        subnet_score=subnet_score(rows) if reward else None,
        seed=None if scenes is None and not reward else seed,
        command=writable(shlex.join(["roadwork", *sys.argv[1:]])),
        elapsed_s=time.monotonic() - began,
    )
    if rows_file is not None:
        write_rows(rows_file, rows)
    if report_file is not None:
        write_report(report_file, report)
    print_report(console(), report)
    if failed or not rows:
        raise typer.Exit(1)


def _scenes(count: int, seed: int) -> _Source:
    from roadwork_serve.testbed.scene_dataset import draw_scenes, drawing_workers, scene_track

    return _Source(draw_scenes(scene_track(count, seed), drawing_workers()), count)


def _photos(folder: Path, task: "Task") -> "Dataset":
    from roadwork_serve.datasets.base import DatasetItem, FileDataset
    from roadwork_serve.datasets.photos import photo_metadata

    return FileDataset(
        str(folder), folder, tuple(DatasetItem(each, each.name) for each in photo_metadata(folder, task))
    )


def _labeled(datasets: "Sequence[Dataset]", excluded: frozenset[str]) -> _Source:
    """Return the items of the datasets; corrupt ones are listed in `left_out` as they are met."""
    from roadwork_serve.datasets.base import CorruptItem
    from roadwork_serve.evaluation.run import Failure

    listings = [(dataset, dataset.items()) for dataset in datasets]
    _check_sources(excluded, {each.metadata.source for _, items in listings for each in items})
    found = [(dataset, [each for each in items if each.metadata.source not in excluded]) for dataset, items in listings]
    left_out: list[Failure] = []

    def samples() -> "Generator[Sample]":
        for dataset, listed in found:
            for each in dataset.samples(listed):
                if isinstance(each, CorruptItem):
                    left_out.append(Failure(each.name, each.reason))
                else:
                    yield each

    return _Source(samples(), sum(len(listed) for _, listed in found), left_out)


def _check_sources(excluded: frozenset[str], names: set[str]) -> None:
    if unknown := sorted(excluded - names):
        there = ", ".join(sorted(filter(None, names))) or "none is named"
        raise typer.BadParameter(f"--exclude-source: no item has source {', '.join(unknown)}; there are: {there}")


def _challenges(
    data: Sequence[str], task: "Task", count: int, seed: int, folder: Path, on_done: Callable[[], None]
) -> _Source:
    from roadwork_serve.evaluation.challenges import draw_challenges, samples, write_challenges

    datasets = _open(data, task)
    drawn = draw_challenges(datasets, count, seed)
    failed = write_challenges(datasets, drawn, folder, seed, on_done)
    return _Source(samples(drawn, folder), count - len(failed), failed)


def _open(data: Sequence[str], task: "Task") -> "list[Dataset]":
    from roadwork_serve.datasets.registry import open_dataset

    return [open_dataset(uri, task) for uri in data]
