from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from roadwork_serve.testbed.minis import training_loop as loop
from roadwork_serve.testbed.minis.training_loop import EmaModel, learning_rate, train


class Clock:
    """A clock that advances a second at every reading."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


class FakeTask:
    """Learn that the target is 3."""

    name = "lesson"

    def __init__(self) -> None:
        torch.manual_seed(0)
        blocks = nn.ModuleDict({"blocks": nn.Sequential(nn.Linear(2, 2, bias=False))})
        self.module = nn.ModuleDict({"model": blocks, "out": nn.Linear(2, 1)})
        self.losses: list[float] = []

    def batches(self, seed: int) -> Iterator[Tensor]:
        while True:
            yield torch.ones(4, 2)

    def loss(self, batch: Tensor, progress: float) -> Tensor:
        loss = (self.module["out"](self.module["model"]["blocks"](batch)) - 3).square().mean()
        self.losses.append(loss.item())
        return loss

    def size(self, batch: Tensor) -> int:
        return len(batch)

    def check(self, module: nn.Module) -> str:
        return ""

    def save(self, module: nn.Module, out: Path) -> None:
        torch.save(module.state_dict(), out / "weights.pt")


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "time", Clock())


def test_the_learning_rate_warms_up_and_ends_annealed() -> None:
    assert learning_rate(0.0, 1.0) < 0.1
    assert learning_rate(loop.WARMUP, 1.0) == pytest.approx(1.0)
    assert learning_rate(1.0, 1.0) == pytest.approx(0.01)
    rates = [learning_rate(i / 100, 1.0) for i in range(5, 101)]
    assert rates == sorted(rates, reverse=True)


def test_the_average_follows_the_weights() -> None:
    layer = nn.Linear(1, 1)
    average = EmaModel(layer, decay=0.5)
    nn.init.constant_(layer.weight, 8.0)
    for _ in range(20):
        average.update(layer)
    assert average.module.weight.item() == pytest.approx(8.0, abs=1e-3)
    assert not average.module.weight.requires_grad


def test_training_takes_the_given_time_and_saves_weights(tmp_path: Path) -> None:
    task = FakeTask()
    summary = train(task, 1.0, tmp_path / "out", tmp_path / "work", lr=0.05)
    assert task.losses[-1] < 0.1 * task.losses[0]
    assert summary.samples == 4 * summary.steps == 4 * len(task.losses)
    assert (tmp_path / "out/weights.pt").exists()


def test_more_minutes_resume_the_finished_run(tmp_path: Path) -> None:
    first = train(FakeTask(), 0.5, tmp_path / "out", tmp_path / "work", lr=0.05)
    task = FakeTask()
    longer = train(task, 1.0, tmp_path / "out", tmp_path / "work", lr=0.05)
    assert longer.steps == first.steps + len(task.losses)
    afresh = FakeTask()
    train(afresh, 0.5, tmp_path / "out", tmp_path / "work", lr=0.05, resume=False)
    assert task.losses[0] < afresh.losses[0]


def test_a_finished_run_is_only_saved_again(tmp_path: Path) -> None:
    train(FakeTask(), 0.5, tmp_path / "out", tmp_path / "work")
    (tmp_path / "out/weights.pt").unlink()
    again = FakeTask()
    train(again, 0.5, tmp_path / "out", tmp_path / "work")
    assert again.losses == []
    assert (tmp_path / "out/weights.pt").exists()
