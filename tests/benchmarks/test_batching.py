"""Tests of the batching benchmark: its bound holds, and its virtual time matches arithmetic."""

import asyncio
import gc
import json
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ray.serve.batching import _BatchQueue

from benchmarks.batching import __main__ as batching
from benchmarks.batching import virtual
from benchmarks.batching.bound import latencies_us, optimal_schedule, threshold_schedule
from benchmarks.batching.contenders import roadwork_batcher, serve_batch, simulate
from benchmarks.batching.figures import Cell
from benchmarks.batching.model import Model, arrivals

GPU = Model("like a GPU", 20_000, 500, "")


def model(fixed_us: int, item_us: int, max_batch: int = 16) -> Model:
    return Model("any", fixed_us, item_us, "", max_batch)


def gaps(most: int = 12) -> st.SearchStrategy[list[int]]:
    return st.lists(st.just(0) | st.integers(0, 20), min_size=1, max_size=most)


models = st.builds(model, st.integers(0, 60), st.integers(1, 30), st.integers(1, 4))


def dues(gaps: Sequence[int]) -> list[int]:
    return [due - gaps[0] for due in accumulate(gaps)]


def mean_us(due: Sequence[int], sizes: Sequence[int], of: Model) -> float:
    return fmean(latencies_us(due, sizes, of))


@pytest.mark.parametrize(
    ("due", "of", "sizes", "latencies"),
    [
        ([0], model(10, 1), (1,), [11]),
        ([0, 5], model(10, 1), (1, 1), [11, 17]),  # 12 and 17 together
        ([0, 1], model(10, 1), (2,), [13, 12]),  # waiting for the second pays: 11 and 21 apart
        ([0, 1], model(10, 1, max_batch=1), (1, 1), [11, 21]),
        ([0, 0, 0], model(0, 10), (1, 1, 1), [10, 20, 30]),  # a batch of all would give each 30
        ([0, 0, 0], model(10, 0, max_batch=2), (2, 1), [10, 10, 20]),
        ([0] * 5, model(9, 10, max_batch=4), (2, 2, 1), [29, 29, 58, 58, 77]),  # though (1, 1) costs the first two less
        ([0, 100, 100], model(10, 0), (1, 2), [10, 10, 10]),
        # the second waits for the three behind it
        ([0, 12, 14, 14, 14], model(10, 2), (1, 4), [12, 20, 18, 18, 18]),
    ],
)
def test_the_optimal_schedule(due: list[int], of: Model, sizes: tuple[int, ...], latencies: list[int]) -> None:
    assert optimal_schedule(due, of) == sizes
    assert latencies_us(due, sizes, of) == latencies


def splits(items: tuple[int, ...], most: int) -> Iterator[list[tuple[int, ...]]]:
    """Yield every partition of the items into batches, in any order."""
    if not items:
        yield []
    for mask in range(1, 2 ** len(items)):
        batch = tuple(item for at, item in enumerate(items) if mask >> at & 1)
        if len(batch) <= most:
            rest = tuple(item for item in items if item not in batch)
            yield from ([batch, *others] for others in splits(rest, most))


@settings(deadline=None, max_examples=200)
@given(gaps(5), models)
def test_no_schedule_in_any_order_is_better(gaps: list[int], of: Model) -> None:
    due = dues(gaps)

    def cost(batches: list[tuple[int, ...]]) -> int:
        end = total = 0
        for batch in batches:
            end = max(end, *(due[at] for at in batch)) + of.fixed_us + of.item_us * len(batch)
            total += sum(end - due[at] for at in batch)
        return total

    assert sum(latencies_us(due, optimal_schedule(due, of), of)) == min(
        map(cost, splits(tuple(range(len(due))), of.max_batch))
    )


def in_order(count: int, most: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to cut a queue of this length into batches."""
    if count == 0:
        yield ()
    for size in range(1, min(count, most) + 1):
        yield from ((size, *rest) for rest in in_order(count - size, most))


@settings(deadline=None, max_examples=200)
@given(gaps(9), models)
def test_no_schedule_in_order_is_better(gaps: list[int], of: Model) -> None:
    due = dues(gaps)
    assert mean_us(due, optimal_schedule(due, of), of) == min(
        mean_us(due, cut, of) for cut in in_order(len(due), of.max_batch)
    )


@settings(deadline=None, max_examples=100)
@given(gaps(), models, st.sampled_from([None, 0.0, 0.01, 0.03]), st.integers(1, 4))
def test_no_batcher_beats_the_bound(gaps: list[int], of: Model, wait_s: float | None, count: int) -> None:
    due = [1000 * each for each in dues(gaps)]
    of = model(1000 * of.fixed_us, 1000 * of.item_us, of.max_batch)
    bound_us = mean_us(due, optimal_schedule(due, of), of)
    run = simulate(roadwork_batcher if wait_s is None else serve_batch(wait_s), of, due)
    assert sum(run.sizes) == len(due) and max(run.sizes) <= of.max_batch
    assert fmean(run.latencies_s) >= bound_us / 1e6 - 1e-6
    count = min(count, of.max_batch)
    for rule in (threshold_schedule(due, of, min_batch=count), threshold_schedule(due, of, max_batch=count)):
        assert sum(rule) == len(due)
        assert mean_us(due, rule, of) >= bound_us


@settings(deadline=None, max_examples=60)
@given(gaps(), st.integers(0, 60_000), st.integers(1, 30_000), st.integers(1, 4))
def test_our_batcher_is_the_rule_that_never_idles(gaps: list[int], fixed_us: int, item_us: int, max_batch: int) -> None:
    of = model(fixed_us, item_us, max_batch)
    due = [1000 * each for each in dues(gaps)]
    planned = threshold_schedule(due, of)
    expected = latencies_us(due, planned, of)
    assume(
        not {at + took for at, took in zip(due, expected, strict=True)} & set(due)
    )  # otherwise the order of simultaneous events is undefined
    run = simulate(roadwork_batcher, of, due)
    assert run.sizes == planned
    assert run.latencies_s == pytest.approx([took / 1e6 for took in expected], abs=1e-5)


@pytest.mark.parametrize(
    ("contender", "sizes", "latencies_ms"),
    [
        (roadwork_batcher, (1, 2), [20.5, 40.5, 39.5]),  # the first goes at once, the others when it has ended
        (serve_batch(0.01), (3,), [31.5, 30.5, 29.5]),  # all wait 10 ms for more
        (serve_batch(0.0), (1, 1, 1), [20.5, 40.0, 59.5]),  # items form batches although the model is busy
    ],
)
def test_virtual_time_matches_arithmetic(contender, sizes: tuple[int, ...], latencies_ms: list[float]) -> None:
    run = simulate(contender, GPU, [0, 1000, 2000], warmup_us=[0, 0, 0, 500])
    assert run.sizes == sizes
    assert [1000 * took for took in run.latencies_s] == pytest.approx(latencies_ms, abs=0.001)
    assert simulate(contender, GPU, [0, 1000, 2000], warmup_us=[0, 0, 0, 500]).latencies_s == run.latencies_s


def test_a_run_leaves_no_queue_that_would_create_an_event_loop() -> None:
    simulate(serve_batch(0.01), GPU, [0, 1000])
    assert not [each for each in gc.get_objects() if type(each) is _BatchQueue]


def test_a_rule_respects_its_batch_limits() -> None:
    due = [0, 1000, 2000, 50_000]
    assert threshold_schedule(due, GPU) == (1, 2, 1)
    assert threshold_schedule(due, GPU, min_batch=3) == (3, 1)
    assert threshold_schedule(due, GPU, max_batch=1) == (1, 1, 1, 1)


def test_a_deadlock_is_reported() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="no timer is left"):
        virtual.run(main())


def test_arrivals_come_at_the_load_that_was_requested() -> None:
    due = arrivals(GPU, 0.7, 20_000, seed=1)
    assert list(due) == sorted(due) and due[0] == 0
    assert len(due) / (due[-1] / 1e6) == pytest.approx(0.7 * GPU.full_per_s, rel=0.03)
    assert arrivals(GPU, 0.7, 20_000, seed=1) == due
    assert arrivals(GPU, 0.7, 20_000, seed=2) != due


def test_a_batcher_that_cannot_keep_up_is_reported() -> None:
    cell = Cell.of(GPU, 0.5, count=300, seeds=1)
    rows = {row.contender: row for row in cell.rows()}
    assert rows["roadwork-serve"].keeps_up and rows["@serve.batch, tuned"].keeps_up
    assert not rows["@serve.batch, 0 ms"].keeps_up
    assert min(row.over_best.minimum for row in rows.values()) == 1.0
    assert 1.0 < rows["roadwork-serve"].over_best.median < 1.2


def test_the_figures_are_written_with_their_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batching, "QUICK", ((0.5,), 60, 1))
    assert batching.main(["--quick", "--out", str(tmp_path / "batching.json")]) == 0
    result = json.loads((tmp_path / "batching.json").read_text())
    assert result["environment"]["command"].startswith("python -m benchmarks.batching --quick")
    assert len(result["rows"]) == 3 * 6
    assert (tmp_path / "batching.png").stat().st_size > 10_000
    assert "like a CPU" in capsys.readouterr().out
