import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork_serve.errors import ConfigError
from roadwork_serve.heads.holdout import group_folds, group_split

# Rows of a few groups, each with its own probability of road work.
ROWS = st.lists(st.tuples(st.integers(0, 11), st.booleans()), min_size=2, max_size=80)
SEEDS = st.integers(0, 50)


def _of(rows: list[tuple[int, bool]]) -> tuple[tuple[str, ...], np.ndarray]:
    return tuple(f"site {group}" for group, _ in rows), np.array([label for _, label in rows], bool)


def _sites(groups: tuple[str, ...], which: np.ndarray) -> set[str]:
    return {groups[at] for at in which}


@settings(deadline=None)
@given(ROWS, st.sampled_from([0.1, 0.2, 0.34, 0.5]), SEEDS)
def test_no_group_is_in_both_parts_and_both_classes_are(rows: list[tuple[int, bool]], share: float, seed: int) -> None:
    groups, truth = _of(rows)
    try:
        part = group_split(groups, truth, share, seed)
    except ConfigError as error:
        assert "Add data from other places" in str(error)
        return
    assert not _sites(groups, part.train) & _sites(groups, part.val)
    assert sorted([*part.train, *part.val]) == list(range(len(rows)))
    assert all(0 < truth[side].sum() < len(side) for side in (part.train, part.val))
    again = group_split(groups, truth, share, seed)
    assert np.array_equal(part.val, again.val)


@settings(deadline=None)
@given(ROWS, st.integers(2, 6), SEEDS)
def test_every_row_is_held_out_once(rows: list[tuple[int, bool]], count: int, seed: int) -> None:
    groups, truth = _of(rows)
    try:
        parts = group_folds(groups, truth, count, seed)
    except ConfigError as error:
        assert "groups" in str(error)
        return
    assert len(parts) == count
    assert sorted(at for part in parts for at in part.val) == list(range(len(rows)))
    for part in parts:
        assert not _sites(groups, part.train) & _sites(groups, part.val)
        assert 0 < truth[part.train].sum() < len(part.train)


def test_many_groups_can_always_be_split() -> None:
    groups, truth = _of([(at // 3, at % 2 == 0) for at in range(300)])
    assert len(group_split(groups, truth, 0.2).val) == pytest.approx(60, abs=3)
    assert [len(part.val) for part in group_folds(groups, truth, 5)] == pytest.approx([60] * 5, abs=3)


def test_another_seed_holds_out_other_rows() -> None:
    groups, truth = _of([(at // 3, at % 2 == 0) for at in range(300)])
    assert not np.array_equal(group_split(groups, truth, 0.2, 1).val, group_split(groups, truth, 0.2, 2).val)


def test_missing_groups_are_an_error() -> None:
    one_class = ("a", "b", "c"), np.array([True, True, True])
    with pytest.raises(ConfigError, match="3 groups, 3 with road work and 0 without: each class needs at least two"):
        group_split(*one_class, 0.2)
    with pytest.raises(ConfigError, match="5 folds need at least as many"):
        group_folds(("a", "b", "c", "d"), np.array([True, True, False, False]), 5)
