"""`python -m benchmarks.cost_accuracy`: what a cascade is worth, as accuracy against compute, beside the usual ones.

All go by the same words of the same models on the same stills; only who is asked, and how words become an answer,
differs. The words are the miniatures'; compute is that of the production models they stand in for.

- stage 1, the fast VLM and the reasoner alone, each by its own word.
- hand-set: leave stage 1 below 0.15 and above 0.85 of its uncalibrated score; then a vote of the signs' keywords and a
  hard YES or NO of the fast VLM; where they contradict each other, the YES or NO of the reasoner.
- FrugalGPT (Chen, Zaharia, Zou 2023, arXiv:2305.05176): backbone, signs, fast VLM, reasoner, any of them left out,
  each left when a score of its answer is high enough. The score is a logistic regression on the answer and how sure
  the stage is of it. What it says is the word of one stage.
- this project's policy as it ships; the same calibrated and tuned anew, as `roadwork calibrate` and `roadwork tune` do
  it by default; all its stages together.

Whatever is fitted is fitted to scenes of run seed 5001, on which the policy that ships was fitted, and judged on others
and on real photographs: FrugalGPT for each budget, and as a line the bands of the policy, from hasty to careful.
FrugalGPT's budget is what the policy spends on the scenes both are fitted to.

Rows are made where they are missing, which takes most of the time, and kept in build/worth.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.cost_accuracy.places import Field, Found
from benchmarks.cost_accuracy.plot import plot
from benchmarks.cost_accuracy.rows import FOLDER, of_photos, of_scenes, taught
from benchmarks.environment import Environment
from benchmarks.server import ROOT
from roadwork_serve.atomic_write import write_json
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.evaluation.by_source import CAVEAT
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.testbed.minis.data import photos_folder

OUT = ROOT / "benchmarks/results/cost_accuracy.json"
FIT_SEED, SEED = 5001, 9003
QUICK_FIT, QUICK = 40, 20
SCENES, PHOTOS, TAUGHT = "rendered scenes", "real photographs", "real photographs the miniatures learned from"
BELOW = {
    SCENES: "whatever is fitted was fitted to other scenes; bars: 95 %",
    PHOTOS: "sources differ between the classes, so being right may be telling the source\n"
    "those the miniatures learned from are left out; no bars, as frames of a drive are alike",
}


def table(name: str, found: Found) -> Table:
    """For people. The last column is what the policy that ships has right beyond the way."""
    view = Table("way", "TFLOP", "accuracy", "95 %", "policy less it", title=f"{found.n} {name}")
    beside = {each.name: each for each in found.versus}
    for each in found.places:
        sure = "" if each.low != each.low else f"{each.low:.3f} to {each.high:.3f}"
        gap = f"+{v.gained} -{v.lost}" if (v := beside.get(each.name)) else ""
        view.add_row(each.name, f"{each.tflop:.2f}", f"{each.accuracy:.3f}", sure, gap)
    return view


def models(rows: Sequence[EvaluationRow]) -> dict[str, str]:
    """By stage, the model that spoke."""
    return {record.stage: record.model + " (miniature)" * record.miniature for row in rows for record in row.records}


def main(arguments: list[str] | None = None) -> int:
    """Make the rows that are missing, judge, print, draw, write."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cost_accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=1000, help=f"to judge, of run seed {SEED}")
    parser.add_argument("--fit", type=int, default=1500, help=f"scenes to fit to, of run seed {FIT_SEED}")
    parser.add_argument(
        "--photos", type=Path, help="folder with a manifest.csv; shared/data/photos beside the checkout"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK} scenes, {QUICK_FIT} to fit to, no photographs: does it run?"
    )
    parser.add_argument("--out", type=Path, help=f"{OUT.relative_to(ROOT)}; with --quick build/worth/quick.json")
    chosen = parser.parse_args(arguments)
    told = sys.argv[1:] if arguments is None else arguments
    environment, console = (
        Environment.here(shlex.join(["python", "-m", "benchmarks.cost_accuracy", *told])),
        Console(width=110),
    )
    fit, scenes = (QUICK_FIT, QUICK) if chosen.quick else (chosen.fit, chosen.scenes)
    out: Path = chosen.out or (FOLDER / "quick.json" if chosen.quick else OUT)
    photos = chosen.photos if chosen.photos else photos_folder()
    fitted_to, sets = of_scenes(fit, FIT_SEED), {SCENES: of_scenes(scenes, SEED)}
    if chosen.quick or photos is None or not (photos / "manifest.csv").is_file():
        console.print("No photographs" + ("." if chosen.quick else ": name a folder with a manifest.csv by --photos."))
    else:
        shown = of_photos(photos)
        sets[PHOTOS] = [row for row in shown if not taught(row.metadata)]
        sets[TAUGHT] = [row for row in shown if taught(row.metadata)]
    field = Field(fitted_to, load_policy(load_profile("mini").policy))
    judged = {name: field.on(rows) for name, rows in sets.items() if rows}
    for name, found in judged.items():
        console.print(table(name, found))
    drawn = {f"{judged[name].n} {name}\n{below}": judged[name] for name, below in BELOW.items() if name in judged}
    plot(drawn, out.with_suffix(".png"))
    result = {
        "environment": asdict(environment),
        "models": models(sets[SCENES]),
        "fitted_to": {"stills": len(fitted_to), "seed": FIT_SEED},
        "judged_seed": SEED,
        "caveat_of_photographs": CAVEAT if PHOTOS in judged else None,
        "frugal": [asdict(each) for each in field.frugal.line],
        "judged": {name: asdict(found) for name, found in judged.items()},
    }
    write_json(out, result)
    console.print(f"Written to {out}, with a picture beside it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
