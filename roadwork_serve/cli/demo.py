"""`roadwork demo`: the console's sample photos and clips through a server of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roadwork_serve.terminal import console, echo, foreign

if TYPE_CHECKING:
    from rich.table import Table

    from roadwork_serve.schema import Verdict

_SAMPLES = Path(__file__).parents[1] / "console/samples"


def demo(
    profile: Annotated[str, typer.Option(help="Profile to run: a name or a path.")] = "auto",
    server: Annotated[
        str | None, typer.Option(help="URL of a running server to use instead, such as http://127.0.0.1:8000.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the results to this JSON file.")] = None,
) -> None:
    """Start a server, classify sample photos and clips, print their verdicts and evidence, and stop it.

    The samples are real photos and clips, and two rendered scenes. This shows the system at work and measures no
    accuracy. The exit code is 1 if a sample gets another label than it shows.
    """
    import json
    from contextlib import nullcontext

    from roadwork_serve.cli.own_server import own_server
    from roadwork_serve.cli.server_client import server_client

    samples = json.loads((_SAMPLES / "samples.json").read_text(encoding="utf-8"))
    if server is None:
        echo("Starting a server on a free port; about a minute ...", err=True)
    with (
        own_server(profile) if server is None else nullcontext(server) as url,
        server_client(url) as client,
    ):
        rows = [row(sample, client.classify(_SAMPLES / sample["file"])) for sample in samples]
    console().print(table(rows))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    correct = sum(one["truth"] == one["verdict"] for one in rows)
    echo(f"{correct} of {len(rows)} correct." + (f" Written to {out}." if out else ""))
    if correct < len(rows):
        raise typer.Exit(1)


def row(sample: dict[str, str], verdict: "Verdict") -> dict[str, Any]:
    """Return the entry of a sample in the JSON file."""
    times = ("queue_ms", "preprocess_ms", "compute_ms", "rpc_ms")
    return {
        "file": sample["file"],
        "truth": sample["label"],
        "verdict": verdict.label,
        "probability": round(verdict.probability, 4),
        "exit_stage": verdict.exit.stage,
        "exit_reason": verdict.exit.reason,
        "elapsed_ms": round(verdict.elapsed_ms, 1),
        "media": verdict.media,
        "regions": [region.model_dump() for stage in verdict.stages for region in stage.evidence.regions],
        "stages_ms": {
            stage.stage: {part: round(getattr(stage, part), 1) for part in times}
            for stage in verdict.stages
            if stage.outcome != "skipped"
        },
    }


def table(rows: list[dict[str, Any]]) -> "Table":
    """Return a table of the results."""
    from rich.table import Table

    view = Table(title="Sample photos and clips through the cascade")
    for heading in ("file", "truth", "verdict", "P(roadwork)", "exit", "ms", "evidence: kind, probability, place"):
        view.add_column(heading, justify="right" if heading in ("P(roadwork)", "ms") else "left")
    for one in rows:
        colour = "green" if one["truth"] == one["verdict"] else "red"
        view.add_row(
            foreign(one["file"]), foreign(one["truth"]), f"[{colour}]{foreign(one['verdict'])}[/]",
            f"{one['probability']:.3f}", foreign(one["exit_stage"]), f"{one['elapsed_ms']:.0f}",
            foreign("; ".join(_region(region, one["media"]) for region in one["regions"])),
        )  # fmt: skip
    return view


def _region(region: dict[str, Any], media: str) -> str:
    x0, y0, x1, y1 = (region["box"][edge] for edge in ("x0", "y0", "x1", "y1"))
    place = f"{x0:.2f} to {x1:.2f} across, {y0:.2f} to {y1:.2f} down"
    frame = f" in frame {region['frame'] + 1}" if media == "clip" else ""
    return f"{region['kind']} {region['probability']:.2f}{frame}, {place}"
