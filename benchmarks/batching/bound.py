"""Latencies of given batch schedules, the optimal schedule, and the schedules of simple rules.

A schedule is the sizes of its batches, in order, over the items in order of arrival.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from benchmarks.batching.model import Model


def latencies_us(due_us: Sequence[int], sizes: Sequence[int], model: Model) -> list[int]:
    """Return the latency of every item. A batch starts once its last item is there and the one before has ended."""
    took: list[int] = []
    free_us = 0
    for size in sizes:
        began = len(took)
        free_us = max(free_us, due_us[began + size - 1]) + model.call_us(size)
        took += [free_us - due for due in due_us[began : began + size]]
    return took


def optimal_schedule(due_us: Sequence[int], model: Model) -> tuple[int, ...]:
    """Return the schedule with the lowest mean latency, given all arrivals in advance.

    No rule does better on these arrivals with one call at a time that is never interrupted, batches of at most
    `max_batch` and this model. Items are alike, so serving them out of order gains nothing. Once the items of a batch
    are chosen, starting it later gains nothing either. The bound holds for the mean, not for a percentile, and a
    batcher that cannot see the future need not reach it.

    Dynamic programming over the number of items done. Partial schedules with the same number of items differ in the
    time at which the model is free again and in their total latency; those that no other beats in both are kept. Exact,
    in whole microseconds.
    """
    count = len(due_us)
    sums = [0, *accumulate(due_us)]
    free, cost = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)]
    back_pointers: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(1, np.int64), np.zeros(1, np.int64))]
    for done in range(1, count + 1):
        sizes = range(1, min(model.max_batch, done) + 1)
        ends = [np.maximum(free[done - size], due_us[done - 1]) + model.call_us(size) for size in sizes]
        costs = [
            cost[done - size] + size * end - (sums[done] - sums[done - size])
            for size, end in zip(sizes, ends, strict=True)
        ]
        lengths = [len(end) for end in ends]
        size = np.repeat(np.array(sizes), lengths)
        before = np.concatenate([np.arange(length) for length in lengths])
        end, total = np.concatenate(ends), np.concatenate(costs)
        if done < count:
            end = np.maximum(end, due_us[done])  # no batch can start before the next item is due
        order = np.lexsort((total, end))
        lowest = np.minimum.accumulate(total[order])
        kept = order[np.concatenate(([True], lowest[1:] < lowest[:-1]))]
        free.append(end[kept])
        cost.append(total[kept])
        back_pointers.append((size[kept], before[kept]))
    chosen: list[int] = []
    done, at = count, len(cost[count]) - 1  # the last one kept has the lowest cost
    while done:
        sizes_kept, before_kept = back_pointers[done]
        chosen.append(int(sizes_kept[at]))
        done, at = done - chosen[-1], int(before_kept[at])
    return tuple(reversed(chosen))


def threshold_schedule(
    due_us: Sequence[int], model: Model, min_batch: int = 1, max_batch: int | None = None
) -> tuple[int, ...]:
    """Return the schedule of a rule that does not know the future.

    An idle model takes the items in the queue once there are `min_batch` of them, at most `max_batch` (by default the
    model's). With a `min_batch` of 1 it is never idle while the queue has items. Rules of this form have the lowest
    mean cost of waiting and serving (Deb and Serfozo, Optimal control of batch service queues, 1973, under their
    assumptions, without `max_batch`). At the end it waits for no more items than are still to come.
    """
    sizes: list[int] = []
    done = free_us = 0
    while done < len(due_us):
        free_us = max(free_us, due_us[min(done + min_batch, len(due_us)) - 1])
        sizes.append(min(max_batch or model.max_batch, bisect_right(due_us, free_us, done) - done))
        done += sizes[-1]
        free_us += model.call_us(sizes[-1])
    return tuple(sizes)
