"""Compare a head on frozen features with end-to-end training of backbone and head: `python -m benchmarks.heads`.

Both start from the backbone of the miniature that ships and a new head. They train on the same rendered stills, hold
out the same fifth for validation, and are tested on the same other stills. Rendering and decoding are not counted. The
cost of the frozen path is one forward pass per image plus training the head; that of end-to-end training is every
forward and backward pass. Times are processor times on one thread, so that other work on the machine does not count.
Forward passes over the test images are excluded.

The backbone of the miniature was trained on similar scenes. With one that knows nothing of roads, end-to-end training
would have more to gain.
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

MODEL = "bundled:backbone"
OUT = Path("benchmarks/results/heads.json")
SEEDS = 6101, 6102  # of the training and of the test stills
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Point:
    """An evaluation during end-to-end training."""

    steps: int
    #: Processor time of training so far.
    cpu_s: float
    metrics: HeadMetrics


@dataclass(frozen=True, slots=True)
class Result:
    """A comparison of frozen features with end-to-end training."""

    #: Description of the method.
    setup: str
    stills: int
    train_images: int
    test_images: int
    #: Processor time of the frozen path for features.
    features_s: float
    #: Processor time of the frozen path for the head.
    head_s: float
    frozen: HeadMetrics
    end_to_end: tuple[Point, ...]
    #: Processor time of end-to-end training until it equals the accuracy of the frozen path, relative to the latter;
    #: None if it never does.
    ratio_same_accuracy: float | None
    #: The same for the log loss.
    ratio_same_log_loss: float | None
    #: The same for all epochs.
    ratio_all: float
    #: Processor time of all epochs, relative to another head on existing features.
    ratio_new_head: float
    #: End-to-end training at the cost of the frozen path.
    at_same_cost: HeadMetrics | None
    settings: HeadTraining
    finetuning: FinetuneSettings
    environment: Environment


class Stills(SceneDataset):
    """The stills of a run, without its clips."""

    def items(self) -> list[DatasetItem]:
        """See `Dataset`."""
        return [each for each in super().items() if each.metadata.kind == "photo"]


class PeriodicEvaluation(lightning.Callback):
    """Evaluates the model on test images during training, and does not count the time."""

    def __init__(self, test: TrainingImages, eval_every: int) -> None:
        self.test, self.eval_every = test, eval_every
        self.points: list[Point] = []
        self.began_s = self.evaluation_s = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.began_s = time.process_time()

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        if (
            trainer.global_step % self.eval_every
            and trainer.global_step != trainer.max_epochs * trainer.num_training_batches
        ):
            return
        stopped_s = time.process_time()
        self.points.append(
            Point(trainer.global_step, stopped_s - self.began_s - self.evaluation_s, _evaluate(pl_module, self.test))
        )
        self.evaluation_s += time.process_time() - stopped_s


def measure(train_count: int, test_count: int, epochs: int, eval_every: int, report: Callable[[str], None]) -> Result:
    """Train with both methods and return the comparison.

    Args:
        train_count: scenes for training.
        test_count: scenes for testing.
        epochs: epochs of end-to-end training.
        eval_every: steps of end-to-end training between evaluations.
        report: receives the name of each step.
    """
    media = load_profile("mini").media
    report("Rendering scenes")
    train, test = (
        load_images([Stills(count, seed)], media) for count, seed in zip((train_count, test_count), SEEDS, strict=True)
    )
    settings = HeadTraining(recipe="cls+mean+max")
    finetuning = FinetuneSettings(epochs=epochs, batch=32, lr=1e-4)
    torch.set_num_threads(1)
    engine = FeatureEngine(weights_folder(MODEL), compile=False)
    engine.features(train.thumbs[:_BATCH], "cls+mean+max")
    report("Extracting features")
    began_s = time.process_time()
    train_features = _extract(engine, train)
    features_s = time.process_time() - began_s
    report("Training a head")
    began_s = time.process_time()
    fit = fit_head(train_features, settings)
    head_s = time.process_time() - began_s
    test_features = _extract(engine, test)
    frozen = head_metrics(test_features, predict_logits(fit.head, test_features))
    report("Training end to end")
    callback = PeriodicEvaluation(test, eval_every)
    with tempfile.TemporaryDirectory() as out:
        finetune(
            weights_folder(MODEL), train, settings, finetuning, Path(out) / "tuned", device="cpu", callbacks=[callback]
        )
    points, cost = tuple(callback.points), features_s + head_s
    spent = points[-1].cpu_s
    return Result(
        setup=" ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        stills=len(train.thumbs),
        train_images=len(fit.split.train),
        test_images=len(test.thumbs),
        features_s=features_s,
        head_s=head_s,
        frozen=frozen,
        end_to_end=points,
        ratio_same_accuracy=_cost_ratio(points, lambda point: point.metrics.accuracy >= frozen.accuracy, cost),
        ratio_same_log_loss=_cost_ratio(points, lambda point: point.metrics.log_loss <= frozen.log_loss, cost),
        ratio_all=spent / cost,
        ratio_new_head=spent / head_s,
        at_same_cost=next((point.metrics for point in reversed(points) if point.cpu_s <= cost), None),
        settings=settings,
        finetuning=finetuning,
        environment=Environment.here(shlex.join(["python", "-m", "benchmarks.heads", *sys.argv[1:]])),
    )


def _extract(engine: FeatureEngine, images: TrainingImages) -> FeatureSet:
    x = engine.features(images.thumbs, "cls+mean+max").numpy()
    return replace(images.known, model=MODEL, recipe="cls+mean+max", x=x, backbone=engine.fingerprint)


@torch.inference_mode()
def _evaluate(model: BackboneWithHead, images: TrainingImages) -> HeadMetrics:
    model.eval()
    parts = (torch.from_numpy(images.thumbs[at : at + _BATCH]) for at in range(0, len(images.thumbs), _BATCH))
    logits = torch.cat([model(part)[:, 0] for part in parts]).double().numpy()
    model.train()
    return head_metrics(images.known, np.asarray(logits))


def _cost_ratio(points: tuple[Point, ...], reached: Callable[[Point], bool], cost: float) -> float | None:
    return next((point.cpu_s / cost for point in points if reached(point)), None)


def main() -> None:
    """Measure, print the results, and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--stills", type=int, default=800, help="scenes for training, of which a tenth are skipped clips"
    )
    parser.add_argument(
        "--test-stills", type=int, default=400, help="scenes for testing, of which a tenth are skipped clips"
    )
    parser.add_argument("--epochs", type=int, default=3, help="epochs of end-to-end training")
    parser.add_argument("--eval-every", type=int, default=6, help="steps between evaluations")
    parser.add_argument("--out", type=Path, default=OUT, help="result file")
    args = parser.parse_args()
    console = Console()
    result = measure(
        args.stills, args.test_stills, args.epochs, args.eval_every, lambda step: console.print(step, style="dim")
    )
    write_json(args.out, asdict(result))
    table = Table("", "CPU s", "accuracy", "AUC", "log loss", box=None)
    rows = [("frozen features and head", result.features_s + result.head_s, result.frozen)]
    rows += [(f"end to end, {point.steps} steps", point.cpu_s, point.metrics) for point in result.end_to_end]
    for name, seconds, metrics in rows:
        table.add_row(name, f"{seconds:.1f}", *(f"{v:.3f}" for v in (metrics.accuracy, metrics.auc, metrics.log_loss)))
    console.print(table)
    console.print(
        f"Features {result.features_s:.1f} s, head {result.head_s:.1f} s. "
        f"CPU time of end-to-end training, relative to both: same accuracy "
        f"{_ratio(result.ratio_same_accuracy)}, same log loss {_ratio(result.ratio_same_log_loss)}, all epochs "
        f"{_ratio(result.ratio_all)}, relative to another head on the same features {_ratio(result.ratio_new_head)}."
    )


def _ratio(ratio: float | None) -> str:
    return "not reached" if ratio is None else f"{ratio:.1f}x"


if __name__ == "__main__":
    main()
