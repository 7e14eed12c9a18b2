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

from roadwork_serve.progress import progress

if TYPE_CHECKING:
    from roadwork_serve.datasets.base import Dataset
    from roadwork_serve.datasets.samples import Sample
    from roadwork_serve.evaluation.run import Failure


@dataclass(frozen=True, slots=True)
class _Source:
    """What is to be judged. left_out: what was found to be damaged, also while the samples are drawn."""

    samples: "Generator[Sample]"
    total: int
    left_out: "list[Failure]" = field(default_factory=list["Failure"])


def evaluate(
    scenes: Annotated[int | None, typer.Option(min=1, help="Judge this many rendered scenes, 1 in 10 a clip.")] = None,
    photos: Annotated[Path | None, typer.Option(help="Judge the real photos of a folder with a manifest.csv.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Judge labelled data, as often as wanted: a folder with roadwork/ and none/ or with a manifest.csv, a "
            "CSV file of columns file,label, natix:FILE.parquet, coco:ANNOTATIONS.json, scenes:N:SEED."
        ),
    ] = None,
    reward: Annotated[
        bool,
        typer.Option("--reward", help="Send --data as Subnet 72's validators would, and say what it would pay."),
    ] = False,
    challenges: Annotated[int, typer.Option(min=1, help="With --reward, how many.")] = 500,
    seed: Annotated[
        int,
        typer.Option(
            min=1,
            help="Run seed: scene i has the seed SEED x 1,000,000 + i; training used smaller ones. With --reward, of "
            "what is drawn and how it looks.",
        ),
    ] = 9001,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    rows_file: Annotated[Path | None, typer.Option("--rows", help="Write every item here, as JSON lines.")] = None,
    ask_everyone: Annotated[
        bool, typer.Option(help="Let every stage speak on every item, as fitting a policy needs it.")
    ] = False,
    profile: Annotated[
        str, typer.Option("--profile", help="A profile that ships with the project, or a path.")
    ] = "mini",
    policy: Annotated[
        str | None, typer.Option("--policy", help="A policy by name or path; the profile's by default.")
    ] = None,
    head: Annotated[Path | None, typer.Option(help="Let stage 1 speak with the head in this folder.")] = None,
) -> None:
    """Measure the cascade: accuracy, calibration, where items leave, what it saves, what it would earn.

    The fast VLM also judges every still that does not reach it, to compare with.
    """
    import asyncio
    import time

    from rich.console import Console

    from roadwork_serve.calibration.sources import with_head
    from roadwork_serve.cascade.policy_file import load_policy
    from roadwork_serve.cli.render import print_report
    from roadwork_serve.evaluation.challenges import subnet_score
    from roadwork_serve.evaluation.photo_report import photo_report
    from roadwork_serve.evaluation.report import evaluate as evaluated
    from roadwork_serve.evaluation.report import write_report
    from roadwork_serve.evaluation.rows import EvaluationRow, write_rows
    from roadwork_serve.evaluation.run import judge_samples
    from roadwork_serve.local_cascade import local_cascade
    from roadwork_serve.profiles.load import load_profile
    from roadwork_serve.profiles.profile import STAGES

    if sum((scenes is not None, photos is not None, bool(data))) != 1:
        raise typer.BadParameter("give one of --scenes N, --photos DIR and --data")
    if reward and not data:
        raise typer.BadParameter("--reward draws its challenges from --data, such as --data scenes:2000")
    chosen = load_profile(profile)
    rules = with_head(load_policy(policy or chosen.policy), head)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="roadwork-") as folder, progress() as bar:

        async def run(source: _Source) -> "tuple[list[EvaluationRow], list[Failure]]":
            task = bar.add_task("Opening the models", total=None)
            async with local_cascade(chosen, rules) as cascade:
                bar.update(task, description="Judging", total=source.total)
                also = STAGES if ask_everyone else ("vlm",)
                return await judge_samples(source.samples, cascade, also, lambda: bar.advance(task))

        if data and reward:
            task = bar.add_task("Making challenges", total=challenges)
            source = _challenges(data, challenges, seed, Path(folder), lambda: bar.advance(task))
            bar.remove_task(task)
        elif data:
            source = _labelled(data)
        else:
            source = _scenes(scenes, seed) if scenes is not None else _photos(photos or Path())
        with closing(source.samples):
            rows, failed = asyncio.run(run(source))
    failed += source.left_out
    report = evaluated(
        rows,
        failed,
        rules,
        chosen.name,
        photos=None if photos is None else photo_report(rows),
        earned=subnet_score(rows) if reward else None,
        seed=None if scenes is None and not reward else seed,
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


def _scenes(count: int, seed: int) -> _Source:
    from roadwork_serve.testbed.scene_dataset import draw_scenes, drawing_workers, scene_track

    return _Source(draw_scenes(scene_track(count, seed), drawing_workers()), count)


def _photos(folder: Path) -> _Source:
    from roadwork_serve.datasets.photos import photo_metadata, photo_samples

    abouts = photo_metadata(folder)
    return _Source(photo_samples(folder, abouts), len(abouts))


def _labelled(data: Sequence[str]) -> _Source:
    """Every item of the data sets; those that are damaged are told of."""
    from roadwork_serve.datasets.base import CorruptItem
    from roadwork_serve.evaluation.run import Failure

    found = [(dataset, dataset.listed()) for dataset in _open(data)]
    left_out: list[Failure] = []

    def samples() -> "Generator[Sample]":
        for dataset, listed in found:
            for each in dataset.samples(listed):
                if isinstance(each, CorruptItem):
                    left_out.append(Failure(each.name, each.why))
                else:
                    yield each

    return _Source(samples(), sum(len(listed) for _, listed in found), left_out)


def _challenges(data: Sequence[str], count: int, seed: int, folder: Path, on_done: Callable[[], None]) -> _Source:
    from roadwork_serve.evaluation.challenges import draw_challenges, samples, write_challenges

    datasets = _open(data)
    drawn = draw_challenges(datasets, count, seed)
    failed = write_challenges(datasets, drawn, folder, seed, on_done)
    return _Source(samples(drawn, folder), count - len(failed), failed)


def _open(data: Sequence[str]) -> "list[Dataset]":
    from roadwork_serve.datasets.registry import open_dataset

    return [open_dataset(spec) for spec in data]
