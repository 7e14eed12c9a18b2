"""What arithmetic says of batches: how long items take in given ones, the best ones, and those of simple rules.

A schedule is the sizes of its batches, in order, over the items as they came.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from benchmarks.batching.model import Model


def latencies_us(due_us: Sequence[int], sizes: Sequence[int], model: Model) -> list[int]:
    """Of every item, when each batch starts as soon as its last item is there and the one before has ended."""
    took: list[int] = []
    free_us = 0
    for size in sizes:
        began = len(took)
        free_us = max(free_us, due_us[began + size - 1]) + model.call_us(size)
        took += [free_us - due for due in due_us[began : began + size]]
    return took


def best(due_us: Sequence[int], model: Model) -> tuple[int, ...]:
    """Return a schedule of the least mean latency there is, for somebody who knows all arrivals beforehand.

    No rule does better on these arrivals with one call at a time that is never broken off, batches of `max_batch` at
    most and this model: items are alike, so serving them out of order gains nothing, and once the items of a batch are
    chosen, starting it later gains nothing either. It is a bound of the mean alone, not of a percentile, and nobody who
    must wait to see what comes can be sure to reach it.

    Dynamic programming over how many items are done. Ways to have done as many differ in when the model is free again
    and in what latency they have cost; those are kept that no other beats in both. Exact, in whole microseconds.
    """
    count = len(due_us)
    sums = [0, *accumulate(due_us)]
    free, cost = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)]
    way: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(1, np.int64), np.zeros(1, np.int64))]
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
        end, spent = np.concatenate(ends), np.concatenate(costs)
        if done < count:
            end = np.maximum(end, due_us[done])  # before that there is nothing to start with
        order = np.lexsort((spent, end))
        least = np.minimum.accumulate(spent[order])
        kept = order[np.concatenate(([True], least[1:] < least[:-1]))]
        free.append(end[kept])
        cost.append(spent[kept])
        way.append((size[kept], before[kept]))
    chosen: list[int] = []
    done, at = count, len(cost[count]) - 1  # the last of those kept costs least
    while done:
        sizes_kept, before_kept = way[done]
        chosen.append(int(sizes_kept[at]))
        done, at = done - chosen[-1], int(before_kept[at])
    return tuple(reversed(chosen))


def eager(due_us: Sequence[int], model: Model, least: int = 1, most: int | None = None) -> tuple[int, ...]:
    """Return the schedule of a rule without knowledge of the future.

    A free model takes the items that wait once there are `least` of them, at most `most` (default max_batch).

    With 1 for least it never rests while something waits. Rules of this form have the least mean cost of waiting and
    serving (Deb and Serfozo, Optimal control of batch service queues, 1973, on their assumptions, without `most`). At
    the end it waits for no more than are to come.
    """
    sizes: list[int] = []
    done = free_us = 0
    while done < len(due_us):
        free_us = max(free_us, due_us[min(done + least, len(due_us)) - 1])
        sizes.append(min(most or model.max_batch, bisect_right(due_us, free_us, done) - done))
        done += sizes[-1]
        free_us += model.call_us(sizes[-1])
    return tuple(sizes)
