"""`python -m benchmarks.worth`: what a cascade is worth, as accuracy against compute, beside the usual ones.

All go by the same words of the same models on the same stills, which `roadwork evaluate --ask-everyone --rows` wrote;
only who is asked, and how words become an answer, differs. Compute is that of the production models, TFLOP an item.

- stage 1 alone, and the fast VLM on all, each by its own word.
- hand-set: leave stage 1 below 0.15 and above 0.85 of its uncalibrated score; then a vote of the signs' keywords and a
  hard YES or NO of the fast VLM; where they contradict each other, the YES or NO of the reasoner.
- FrugalGPT (Chen, Zaharia, Zou 2023, arXiv:2305.05176): backbone, fast VLM, reasoner, one after the other, each left
  when a score of its answer is above a threshold. The score is a logistic regression on the stage's log-odds; it and
  the thresholds are fitted to other rows, for a line of budgets.
- this project's policy as it ships, all its stages together, and the line that its bands reach on these rows.

Thresholds are never fitted to the rows that are judged, save for that last line, which claims nothing.
"""

import argparse
import itertools
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression

from benchmarks.environment import Environment
from roadwork_serve.cascade.load import load_policy
from roadwork_serve.learn.courses import priced
from roadwork_serve.learn.evaluation import write_json
from roadwork_serve.learn.intervals import wilson
from roadwork_serve.learn.pareto import fronts
from roadwork_serve.learn.rows import Row, read_rows
from roadwork_serve.profiles.load import load_profile

OUT = Path("benchmarks/results/worth.json")
FRUGAL = ("backbone", "vlm", "reasoner")
_THRESHOLDS = 24  # tried at each of two stages
Floats = NDArray[np.float64]
Judge = Callable[[Row], tuple[bool, float]]


@dataclass(frozen=True, slots=True)
class Place:
    """accuracy with its 95 % interval; tflop: of a mean item."""

    name: str
    tflop: float
    accuracy: float
    low: float
    high: float


def alone(stage: str) -> Judge:
    """A stage by its own word."""
    return lambda row: (_logit(row, stage) >= 0, priced(row, stage))


def by_hand(row: Row) -> tuple[bool, float]:
    """The usual cascade, with thresholds that somebody thought of."""
    spent, score = priced(row, "backbone"), 1 / (1 + np.exp(-_logit(row, "backbone")))
    if not 0.15 <= score <= 0.85:
        return bool(score > 0.5), spent
    spent += priced(row, "signs") + priced(row, "vlm")
    keywords, fast = np.sign(_logit(row, "signs")), _logit(row, "vlm") >= 0
    if keywords == 0 or (keywords > 0) == fast:
        return bool(fast), spent
    return _logit(row, "reasoner") >= 0, spent + priced(row, "reasoner")


class Frugal:
    """Scores of answers, fitted to rows, and pairs of thresholds from the cheapest to the most careful."""

    def __init__(self, rows: Sequence[Row]) -> None:
        truth = np.array([row.about.label for row in rows])
        self._right: dict[str, LogisticRegression] = {}
        for stage in FRUGAL[:2]:
            logits = np.array([_logit(row, stage) for row in rows])
            features, right = np.abs(logits)[:, None], (logits >= 0) == truth
            if len(set(right.tolist())) == 2:
                self._right[stage] = LogisticRegression().fit(features, right)
        self.line = self._line(rows)

    def judge(self, thresholds: Sequence[float]) -> Judge:
        """The cascade with these thresholds, for the first two stages."""

        def judged(row: Row) -> tuple[bool, float]:
            spent = 0.0
            for stage, threshold in zip(FRUGAL, (*thresholds, -np.inf), strict=True):
                spent += priced(row, stage)
                if self._score(stage, row) >= threshold:
                    break
            return _logit(row, stage) >= 0, spent

        return judged

    def _score(self, stage: str, row: Row) -> float:
        """How sure it is that the stage's answer is right."""
        if stage not in self._right:
            return 1.0
        return float(self._right[stage].predict_proba([[abs(_logit(row, stage))]])[0, 1])

    def _line(self, rows: Sequence[Row]) -> list[tuple[float, float]]:
        """Of all pairs those that no other beats on these rows in both."""
        grids = [
            np.quantile([self._score(stage, row) for row in rows], np.linspace(0, 1, _THRESHOLDS))
            for stage in FRUGAL[:2]
        ]
        tried = [(pair, place("", rows, self.judge(pair))) for pair in itertools.product(*grids)]
        best: list[tuple[float, float]] = []
        reached = 0.0
        for pair, there in sorted(tried, key=lambda each: (each[1].tflop, -each[1].accuracy)):
            if there.accuracy > reached:
                best.append((float(pair[0]), float(pair[1])))
                reached = there.accuracy
        return best


def place(name: str, rows: Sequence[Row], judge: Judge) -> Place:
    """Where a way of judging stands on these rows."""
    judged = [(judge(row), row.about.label) for row in rows]
    right = sum(said == truth for (said, _), truth in judged)
    low, high = wilson(right, len(rows), 0.975)
    tflop = sum(spent for (_, spent), _ in judged) / len(rows) / 1000
    return Place(name, round(tflop, 3), round(right / len(rows), 4), round(low, 4), round(high, 4))


def places(rows: Sequence[Row], fitted_to: Sequence[Row]) -> dict[str, list[Place]]:
    """All ways, and the two lines."""
    policy = load_policy(load_profile("mini").policy)
    (front,) = fronts(rows, policy, policy)
    frugal = Frugal(fitted_to)
    ours = {each.name: each for each in front.places}
    found = [
        place("stage 1 alone", rows, alone("backbone")),
        place("fast VLM on all", rows, alone("vlm")),
        place("reasoner on all", rows, alone("reasoner")),
        place("hand-set cascade", rows, by_hand),
    ]
    for name, shown in (("today", "this policy"), ("all stages", "all stages together")):
        right = round(ours[name].accuracy * len(rows))
        low, high = wilson(right, len(rows), 0.975)
        found.append(
            Place(shown, round(ours[name].cost / 1000, 3), round(right / len(rows), 4), round(low, 4), round(high, 4))
        )
    track = [Place("", round(each.cost / 1000, 3), round(each.accuracy, 4), 0.0, 0.0) for each in front.line]
    return {
        "places": found,
        "frugal": [place("FrugalGPT", rows, frugal.judge(pair)) for pair in frugal.line],
        "bands": track,
    }


def _logit(row: Row, stage: str) -> float:
    """Of a stage's own word; 0 where it abstained."""
    look = row.look(stage)
    return look.logit if look is not None and look.logit is not None else 0.0


def _stills(path: Path) -> list[Row]:
    return [row for row in read_rows(path) if row.about.kind == "photo" and row.about.scored]


def _drawn(path: Path, judged: dict[str, dict[str, list[Place]]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * len(judged), 5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, found) in zip(np.atleast_1d(figure.subplots(1, len(judged))), judged.items(), strict=True):
        for line, label in (("bands", "bands of this policy, on these rows"), ("frugal", "FrugalGPT")):
            told = found[line]
            axes.plot([each.tflop for each in told], [each.accuracy for each in told], ".-", alpha=0.6, label=label)
        for each in found["places"]:
            error = [[each.accuracy - each.low], [each.high - each.accuracy]]
            axes.errorbar([each.tflop], [each.accuracy], error, fmt="o", capsize=3, label=each.name)
        axes.set(title=name, xlabel="TFLOP an item, production models", ylabel="accuracy", xscale="log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Judge, print, draw, write OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Path, required=True, help="rows that FrugalGPT is fitted to")
    parser.add_argument("--scenes", type=Path, required=True, help="rows of other scenes")
    parser.add_argument("--photos", type=Path, help="rows of real photographs")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    fitted_to = _stills(args.fit)
    sets = {"rendered scenes": _stills(args.scenes)} | (
        {"real photographs": _stills(args.photos)} if args.photos else {}
    )
    judged = {name: places(rows, fitted_to) for name, rows in sets.items()}
    for name, found in judged.items():
        table = Table("way", "TFLOP", "accuracy", "95 %", title=f"{len(sets[name])} {name}")
        for each in found["places"] + found["frugal"]:
            table.add_row(each.name, f"{each.tflop:.2f}", f"{each.accuracy:.3f}", f"{each.low:.3f} to {each.high:.3f}")
        Console().print(table)
    _drawn(args.out.with_suffix(".png"), judged)
    result = {
        "environment": asdict(Environment.here(shlex.join(["python", "-m", "benchmarks.worth", *sys.argv[1:]]))),
        "items": {name: len(rows) for name, rows in sets.items()},
        "fitted_to": len(fitted_to),
        "judged": {
            name: {part: [asdict(each) for each in told] for part, told in found.items()}
            for name, found in judged.items()
        },
    }
    write_json(args.out, result)


if __name__ == "__main__":
    main()
