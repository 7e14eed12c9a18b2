"""`roadwork render`: scenes of the test track as files."""

from pathlib import Path
from typing import Annotated

import typer

from roadwork_serve.progress import progress
from roadwork_serve.terminal import echo


def render(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the run; scene i gets SEED x 1,000,000 + i.")] = 1,
    clips: Annotated[bool, typer.Option("--clips", help="Render clips instead of photos.")] = False,
) -> None:
    """Render labeled synthetic road scenes.

    Writes one file for each scene, manifest.csv with the labels, and truth.jsonl with the content of each scene.
    """
    import csv
    import json
    from dataclasses import asdict

    from roadwork_serve.schema import MediaKind
    from roadwork_serve.testbed.scene_dataset import draw_scenes, drawing_workers, has_readable_text, scene_seed

    out.mkdir(parents=True, exist_ok=True)
    kind: MediaKind = "clip" if clips else "photo"
    wanted: list[tuple[int, MediaKind]] = [(scene_seed(seed, index), kind) for index in range(count)]
    with (
        progress() as bar,
        (out / "truth.jsonl").open("w", encoding="utf-8") as truths,
        (out / "manifest.csv").open("w", newline="", encoding="utf-8") as manifest,
    ):
        labels = csv.writer(manifest)
        labels.writerow(("file", "label", "has_text"))
        for sample in bar.track(draw_scenes(wanted, drawing_workers()), total=count, description="Rendering"):
            (out / sample.metadata.name).write_bytes(sample.data)
            truth = asdict(sample.truth) if sample.truth else {}
            truths.write(json.dumps({"file": sample.metadata.name} | truth) + "\n")
            has_text = "yes" if sample.truth and has_readable_text(sample.truth) else "no"
            labels.writerow((sample.metadata.name, "roadwork" if sample.metadata.label else "none", has_text))
    echo(f"{count} {kind}s, manifest.csv and truth.jsonl are in {out}")
