"""Classify sample scenes and clips on a server of its own: `make demo` prints a table and writes build/demo.json."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.server import ROOT, own_server
from roadwork_serve.testbed import scenes

OUT = ROOT / "build"
STAGES = ("backbone", "signs", "vlm", "reasoner", "video")
# Chosen from a calibration run so that every stage is the exit of one of them. All were classified correctly there, so
# the demo does not measure accuracy; `roadwork evaluate` does.
STILLS = (
    5_001_000_000,
    5_001_000_001,
    5_001_000_002,
    5_001_000_003,
    5_001_000_004,
    5_001_000_005,
    5_001_000_006,
    5_001_000_012,
    5_001_000_014,
    5_001_000_015,
    5_001_000_022,
    5_001_000_031,
    5_001_000_035,
    5_001_000_093,
)
CLIPS = (5_001_000_009, 5_001_000_019, 5_001_000_079)


@dataclass(frozen=True)
class Sample:
    """A media file, with its ground truth."""

    name: str
    mime: str
    data: bytes
    truth: scenes.Truth


def samples() -> list[Sample]:
    """Return the files to send."""
    result: list[Sample] = []
    for seed in STILLS:
        photo = scenes.photo(seed)
        result.append(Sample(f"scene-{seed}.jpg", "image/jpeg", photo.jpeg(), photo.truth))
    for seed in CLIPS:
        clip = scenes.clip(seed)
        result.append(Sample(f"clip-{seed}.mp4", "video/mp4", clip.mp4(), clip.truth))
    return result


def classify(url: str, sample: Sample) -> dict[str, Any]:
    """Return the verdict on a sample."""
    reply = httpx.post(f"{url}/v1/classify", content=sample.data, headers={"Content-Type": sample.mime}, timeout=120)
    reply.raise_for_status()
    return reply.json()


def row(sample: Sample, verdict: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of a sample in build/demo.json."""
    spent = {
        stage["stage"]: {part: round(stage[part], 1) for part in ("queue_ms", "preprocess_ms", "compute_ms", "rpc_ms")}
        for stage in verdict["stages"]
        if stage["outcome"] != "skipped"
    }
    return {
        "file": sample.name,
        "truth": "roadwork" if sample.truth.label else "none",
        "activity": sample.truth.activity,
        "verdict": verdict["label"],
        "probability": round(verdict["probability"], 4),
        "exit_stage": verdict["exit"]["stage"],
        "exit_reason": verdict["exit"]["reason"],
        "elapsed_ms": round(verdict["elapsed_ms"], 1),
        "stages_ms": spent,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """Return a table of the results."""
    view = Table(title="Sample scenes through the cascade")
    for heading in ("file", "truth", "verdict", "P(roadwork)", "exit", "reason", "ms", "stages, ms"):
        view.add_column(heading, justify="right" if heading in ("P(roadwork)", "ms") else "left")
    for one in rows:
        correct = one["truth"] == one["verdict"]
        path = " > ".join(f"{stage} {sum(ms.values()):.0f}" for stage, ms in one["stages_ms"].items())
        view.add_row(
            one["file"], one["truth"], f"[{'green' if correct else 'red'}]{one['verdict']}[/]",
            f"{one['probability']:.3f}", one["exit_stage"], one["exit_reason"], f"{one['elapsed_ms']:.0f}", path,
        )  # fmt: skip
    return view


def main() -> int:
    """Run the demo. Returns 0 if every sample was classified and every stage was the exit of one."""
    console = Console(width=150)
    console.print("Starting a server on a free port ...")
    files = samples()
    with own_server(OUT / "demo-server.log") as url:
        rows = [row(sample, classify(url, sample)) for sample in files]
    console.print(table(rows))
    (OUT / "demo.json").write_text(json.dumps(rows, indent=1) + "\n")
    correct = sum(one["truth"] == one["verdict"] for one in rows)
    console.print(f"{correct} of {len(rows)} correct. Written to {Path('build/demo.json')}.")
    if missing := set(STAGES) - {one["exit_stage"] for one in rows}:
        console.print(f"[red]No sample exited at: {', '.join(sorted(missing))}[/]")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
