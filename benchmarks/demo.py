"""Classify the console's samples on a server of its own: `make demo` prints a table and writes build/demo.json.

The samples are real photos and clips, and two rendered scenes. Stage 1 decides all of them with the profile `cpu`; this
shows verdicts and evidence, and measures no accuracy.
"""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import roadwork_serve
from benchmarks.server import ROOT, own_server
from roadwork_serve.client import Client
from roadwork_serve.schema import Verdict

OUT = ROOT / "build"
SAMPLES = Path(roadwork_serve.__file__).parent / "console/samples"


def row(sample: dict[str, str], verdict: Verdict) -> dict[str, Any]:
    """Return the entry of a sample in build/demo.json."""
    times = ("queue_ms", "preprocess_ms", "compute_ms", "rpc_ms")
    return {
        "file": sample["file"],
        "truth": sample["label"],
        "verdict": verdict.label,
        "probability": round(verdict.probability, 4),
        "exit_stage": verdict.exit.stage,
        "exit_reason": verdict.exit.reason,
        "elapsed_ms": round(verdict.elapsed_ms, 1),
        "regions": [region.model_dump() for stage in verdict.stages for region in stage.evidence.regions],
        "stages_ms": {
            stage.stage: {part: round(getattr(stage, part), 1) for part in times}
            for stage in verdict.stages
            if stage.outcome != "skipped"
        },
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """Return a table of the results."""
    view = Table(title="Sample photos and clips through the cascade")
    for heading in ("file", "truth", "verdict", "P(roadwork)", "exit", "ms", "evidence: kind, probability, place"):
        view.add_column(heading, justify="right" if heading in ("P(roadwork)", "ms") else "left")
    for one in rows:
        colour = "green" if one["truth"] == one["verdict"] else "red"
        view.add_row(
            one["file"], one["truth"], f"[{colour}]{one['verdict']}[/]", f"{one['probability']:.3f}", one["exit_stage"],
            f"{one['elapsed_ms']:.0f}", "\n".join(_region(region) for region in one["regions"]),
        )  # fmt: skip
    return view


def _region(region: dict[str, Any]) -> str:
    x0, y0, x1, y1 = (region["box"][edge] for edge in ("x0", "y0", "x1", "y1"))
    return f"{region['kind']} {region['probability']:.2f}, {x0:.2f} to {x1:.2f} across, {y0:.2f} to {y1:.2f} down"


def main() -> int:
    """Run the demo. Returns 0 if every sample got the label that it shows."""
    console = Console(width=150)
    console.print("Starting a server on a free port ...")
    samples = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    with own_server(OUT / "demo-server.log") as url, Client(url) as client:
        rows = [row(sample, client.classify(SAMPLES / sample["file"])) for sample in samples]
    console.print(table(rows))
    (OUT / "demo.json").write_text(json.dumps(rows, indent=1) + "\n")
    correct = sum(one["truth"] == one["verdict"] for one in rows)
    console.print(f"{correct} of {len(rows)} correct. Written to {Path('build/demo.json')}.")
    return 0 if correct == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
