import random

from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.hashing import stable_uniform
from roadwork_serve.journal.bottom_k import BottomK


def test_hashes_are_uniform_and_depend_on_seed_and_name_only() -> None:
    lots = [stable_uniform("3", f"{number}") for number in range(20_000)]
    tenths = [sum(tenth <= 10 * value < tenth + 1 for value in lots) for tenth in range(10)]
    assert min(tenths) > 1850 and max(tenths) < 2150
    assert lots[7] == stable_uniform("3", "7") != stable_uniform("4", "7")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100)), max_size=60), st.integers(0, 12))
def test_the_lowest_are_kept_in_any_order_of_arrival(keys: list[tuple[int, int]], size: int) -> None:
    shuffled = random.Random(1).sample(keys, len(keys))
    found = []
    for order in (keys, shuffled):
        lowest: BottomK[tuple[int, int]] = BottomK(size)
        for key in order:
            lowest.add(key, *key)
        found.append(lowest.ordered())
    assert found[0] == found[1] == sorted(keys)[:size]
