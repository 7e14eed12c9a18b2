"""`python -m benchmarks.heads`: a head on frozen features against training backbone and head end to end.

Both start from the body of the miniature that ships and a new head, learn from the same rendered stills, hold back the
same fifth, and are tried on the same other stills. Neither is charged for drawing or decoding. The frozen path pays for
one look at every picture and for the head; end to end pays for every look, forth and back. Times are of the processor,
on one thread, so that other work on the machine does not count; looks at the test pictures are left out.

The miniature's body was taught on other scenes like these: a body that knows nothing of roads would leave more for
training end to end to gain.
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.environment import Environment
from roadwork_serve.atomic_write import write_json
from roadwork_serve.datasets.base import DatasetItem
from roadwork_serve.engines.features import FeatureEngine
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.heads.feature_set import FeatureSet
from roadwork_serve.heads.finetune import BackboneWithHead, FinetuneSettings, TrainingImages, finetune, load_images
from roadwork_serve.heads.fit import HeadTraining, fit_head, predict_logits
from roadwork_serve.heads.head_metrics import HeadMetrics, head_metrics
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.testbed.scene_dataset import SceneDataset

MODEL = "mini:backbone"
OUT = Path("benchmarks/results/heads.json")
SEEDS = 6101, 6102  # of the stills to learn from, and of those to be tried on
_LOOK = 32


@dataclass(frozen=True, slots=True)
class Point:
    """Of training end to end. cpu_s: spent on training so far."""

    steps: int
    cpu_s: float
    tried: HeadMetrics


@dataclass(frozen=True, slots=True)
class Result:
    """Frozen features compared with end-to-end training.

    `ratio_same_accuracy` and `ratio_same_log_loss` are the processor time of end-to-end training until it equals the
    head on frozen features, divided by that of the frozen path; None if it never does. `ratio_all` is that of all
    epochs, and `ratio_again` the same against another head on existing features. `at_same_cost` is
    end-to-end training when it had spent as much as the frozen path.
    """

    setup: str
    stills: int
    learned_from: int
    tried_on: int
    features_s: float
    head_s: float
    frozen: HeadMetrics
    end_to_end: tuple[Point, ...]
    ratio_same_accuracy: float | None
    ratio_same_log_loss: float | None
    ratio_all: float
    ratio_again: float
    at_same_cost: HeadMetrics | None
    settings: HeadTraining
    finetuning: FinetuneSettings
    environment: Environment


class Stills(SceneDataset):
    """The stills of a run, without its clips."""

    def items(self) -> list[DatasetItem]:
        """See `Dataset`."""
        return [each for each in super().items() if each.metadata.kind == "photo"]


class Watch(lightning.Callback):
    """Tries what is being trained on other pictures now and then, and stops the clock for it."""

    def __init__(self, tried: TrainingImages, every: int) -> None:
        self.tried, self.every = tried, every
        self.points: list[Point] = []
        self.began_s = self.away_s = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.began_s = time.process_time()

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        if (
            trainer.global_step % self.every
            and trainer.global_step != trainer.max_epochs * trainer.num_training_batches
        ):
            return
        stopped_s = time.process_time()
        self.points.append(
            Point(trainer.global_step, stopped_s - self.began_s - self.away_s, _try(pl_module, self.tried))
        )
        self.away_s += time.process_time() - stopped_s


def measure(stills: int, tried: int, epochs: int, every: int, say: Callable[[str], None]) -> Result:
    """stills: to learn from; tried: to be tried on. every: steps between trials of end to end."""
    media = load_profile("mini").media
    say("Drawing")
    learn, other = (
        load_images([Stills(count, seed)], media) for count, seed in zip((stills, tried), SEEDS, strict=True)
    )
    settings = HeadTraining(recipe="cls+mean+max")
    finetuning = FinetuneSettings(epochs=epochs, batch=32, lr=1e-4)
    torch.set_num_threads(1)
    engine = FeatureEngine(weights_folder(MODEL), compile=False)
    engine.features(learn.thumbs[:_LOOK], "cls+mean+max")
    say("Features")
    began_s = time.process_time()
    known = _featured(engine, learn)
    features_s = time.process_time() - began_s
    say("Head")
    began_s = time.process_time()
    fit = fit_head(known, settings)
    head_s = time.process_time() - began_s
    others = _featured(engine, other)
    frozen = head_metrics(others, predict_logits(fit.head, others))
    say("End to end")
    watch = Watch(other, every)
    with tempfile.TemporaryDirectory() as out:
        finetune(
            weights_folder(MODEL), learn, settings, finetuning, Path(out) / "tuned", device="cpu", callbacks=[watch]
        )
    points, cost = tuple(watch.points), features_s + head_s
    spent = points[-1].cpu_s
    return Result(
        setup=" ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        stills=len(learn.thumbs),
        learned_from=len(fit.split.train),
        tried_on=len(other.thumbs),
        features_s=features_s,
        head_s=head_s,
        frozen=frozen,
        end_to_end=points,
        ratio_same_accuracy=_reached(points, lambda point: point.tried.accuracy >= frozen.accuracy, cost),
        ratio_same_log_loss=_reached(points, lambda point: point.tried.log_loss <= frozen.log_loss, cost),
        ratio_all=spent / cost,
        ratio_again=spent / head_s,
        at_same_cost=next((point.tried for point in reversed(points) if point.cpu_s <= cost), None),
        settings=settings,
        finetuning=finetuning,
        environment=Environment.here(shlex.join(["python", "-m", "benchmarks.heads", *sys.argv[1:]])),
    )


def _featured(engine: FeatureEngine, shown: TrainingImages) -> FeatureSet:
    x = engine.features(shown.thumbs, "cls+mean+max").numpy()
    return replace(shown.known, model=MODEL, recipe="cls+mean+max", x=x, backbone=engine.fingerprint)


@torch.inference_mode()
def _try(both: BackboneWithHead, shown: TrainingImages) -> HeadMetrics:
    both.eval()
    parts = (torch.from_numpy(shown.thumbs[at : at + _LOOK]) for at in range(0, len(shown.thumbs), _LOOK))
    logits = torch.cat([both(part)[:, 0] for part in parts]).double().numpy()
    both.train()
    return head_metrics(shown.known, np.asarray(logits))


def _reached(points: tuple[Point, ...], there: Callable[[Point], bool], cost: float) -> float | None:
    return next((point.cpu_s / cost for point in points if there(point)), None)


def main() -> None:
    """Measure, print and write benchmarks/results/heads.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--stills", type=int, default=800, help="scenes to learn from, a tenth of them clips left out")
    parser.add_argument("--tried", type=int, default=400, help="scenes to be tried on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--every", type=int, default=6, help="steps between trials")
    parser.add_argument("--json", type=Path, default=OUT)
    asked = parser.parse_args()
    console = Console()
    result = measure(
        asked.stills, asked.tried, asked.epochs, asked.every, lambda what: console.print(what, style="dim")
    )
    write_json(asked.json, asdict(result))
    table = Table("", "processor s", "accuracy", "AUC", "log loss", box=None)
    rows = [("frozen features and head", result.features_s + result.head_s, result.frozen)]
    rows += [(f"end to end, {point.steps} steps", point.cpu_s, point.tried) for point in result.end_to_end]
    for name, seconds, tried in rows:
        table.add_row(name, f"{seconds:.1f}", *(f"{v:.3f}" for v in (tried.accuracy, tried.auc, tried.log_loss)))
    console.print(table)
    console.print(
        f"Features {result.features_s:.1f} s, head {result.head_s:.1f} s. End to end over frozen: same accuracy "
        f"{_times(result.ratio_same_accuracy)}, same log loss {_times(result.ratio_same_log_loss)}, all epochs "
        f"{_times(result.ratio_all)}, against another head on the same features {_times(result.ratio_again)}."
    )


def _times(ratio: float | None) -> str:
    return "not reached" if ratio is None else f"{ratio:.1f}x"


if __name__ == "__main__":
    main()
