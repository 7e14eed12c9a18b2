"""Compare the cascade with other methods, as accuracy over compute: `python -m benchmarks.cost_accuracy`.

All methods use the same predictions of the same models on the same stills. They differ in the stages that they run and
in how predictions are combined. The predictions are those of the miniatures; compute is that of the production models
they stand for.

- stage 1, the fast VLM and the reasoner alone.
- hand-set: exit at stage 1 below 0.15 and above 0.85 of its uncalibrated score; then a vote of the signs' keywords and
  a hard YES or NO of the fast VLM; if they contradict each other, the YES or NO of the reasoner.
- FrugalGPT (Chen, Zaharia, Zou 2023, arXiv:2305.05176): backbone, signs, fast VLM, reasoner, any of them left out. It
  exits at a stage if the score of its answer is high enough. The score is a logistic regression on the answer and the
  confidence of the stage. The verdict is the answer of one stage.
- this project's policy as shipped; the same, recalibrated and retuned with the defaults of `roadwork calibrate` and
  `roadwork tune`; all its stages together.

All fitting uses scenes of run seed 5001, to which the shipped policy was fitted. The methods are tested on other scenes
and on real photographs: FrugalGPT for each budget, and the policy for each set of exit bands as a curve. The budget of
FrugalGPT is what the policy spends on the scenes to which both are fitted.

Missing rows are computed, which takes most of the time, and cached in build/cost_accuracy.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.cost_accuracy.comparison import Comparison, MethodComparison
from benchmarks.cost_accuracy.plot import plot
from benchmarks.cost_accuracy.rows import FOLDER, in_training_set, photo_rows, scene_rows
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
SCENES, PHOTOS, TRAINED_ON = (
    "rendered scenes",
    "real photographs",
    "real photographs that the miniatures were trained on",
)
NOTES = {
    SCENES: "fitted to other scenes; bars: 95 %",
    PHOTOS: "the classes have different sources, so accuracy may reflect the source\n"
    "without training photographs; no bars, as frames of a drive are alike",
}


def table(name: str, result: Comparison) -> Table:
    """Return a table of the results.

    The last column counts the items on which only the shipped policy, and those on which only the method is correct.
    """
    view = Table("method", "TFLOP", "accuracy", "95 %", "policy minus method", title=f"{result.n} {name}")
    differences = {each.name: each for each in result.differences}
    for each in result.methods:
        interval = "" if each.low != each.low else f"{each.low:.3f} to {each.high:.3f}"
        difference = f"+{v.only_shipped} -{v.only_other}" if (v := differences.get(each.name)) else ""
        view.add_row(each.name, f"{each.tflop:.2f}", f"{each.accuracy:.3f}", interval, difference)
    return view


def models(rows: Sequence[EvaluationRow]) -> dict[str, str]:
    """Return the model of each stage."""
    return {record.stage: record.model + " (miniature)" * record.miniature for row in rows for record in row.records}


def main(arguments: list[str] | None = None) -> int:
    """Compute missing rows, compare the methods, and write the results with a plot."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cost_accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=1000, help=f"test scenes, from run seed {SEED}")
    parser.add_argument("--fit", type=int, default=1500, help=f"scenes for fitting, from run seed {FIT_SEED}")
    parser.add_argument(
        "--photos", type=Path, help="folder with a manifest.csv; by default shared/data/photos beside the checkout"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a short run: {QUICK} test scenes, {QUICK_FIT} for fitting, no photographs",
    )
    parser.add_argument(
        "--out", type=Path, help=f"{OUT.relative_to(ROOT)}, or build/cost_accuracy/quick.json with --quick"
    )
    args = parser.parse_args(arguments)
    command_line = sys.argv[1:] if arguments is None else arguments
    environment, console = (
        Environment.here(shlex.join(["python", "-m", "benchmarks.cost_accuracy", *command_line])),
        Console(width=110),
    )
    fit, scenes = (QUICK_FIT, QUICK) if args.quick else (args.fit, args.scenes)
    out: Path = args.out or (FOLDER / "quick.json" if args.quick else OUT)
    photos = args.photos if args.photos else photos_folder()
    fitted_to, sets = scene_rows(fit, FIT_SEED), {SCENES: scene_rows(scenes, SEED)}
    if args.quick or photos is None or not (photos / "manifest.csv").is_file():
        console.print("No photographs" + ("." if args.quick else ": name a folder with a manifest.csv with --photos."))
    else:
        rows_of_photos = photo_rows(photos)
        sets[PHOTOS] = [row for row in rows_of_photos if not in_training_set(row.metadata)]
        sets[TRAINED_ON] = [row for row in rows_of_photos if in_training_set(row.metadata)]
    comparison = MethodComparison(fitted_to, load_policy(load_profile("mini").policy))
    results = {name: comparison.evaluate(rows) for name, rows in sets.items() if rows}
    for name, result in results.items():
        console.print(table(name, result))
    panels = {f"{results[name].n} {name}\n{note}": results[name] for name, note in NOTES.items() if name in results}
    plot(panels, out.with_suffix(".png"))
    result = {
        "environment": asdict(environment),
        "models": models(sets[SCENES]),
        "fitted_to": {"stills": len(fitted_to), "seed": FIT_SEED},
        "test_seed": SEED,
        "photo_caveat": CAVEAT if PHOTOS in results else None,
        "frugal": [asdict(each) for each in comparison.frugal.front],
        "results": {name: asdict(result) for name, result in results.items()},
    }
    write_json(out, result)
    console.print(f"Written to {out}, with a plot beside it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
