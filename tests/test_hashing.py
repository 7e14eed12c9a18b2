"""Pseudo-random numbers that are the same everywhere."""

import numpy as np

from roadwork_serve.hashing import stable_uniform


def test_a_name_always_has_the_same_number() -> None:
    """Samples and splits that were drawn before must not change."""
    assert stable_uniform("0", "a") == 0.051689390498637446
    assert stable_uniform("design", "trip 7") == 0.8976405045612995


def test_every_part_changes_the_number() -> None:
    assert len({stable_uniform("a", "b"), stable_uniform("b", "a"), stable_uniform("a"), stable_uniform("ab")}) == 4


def test_numbers_are_uniform() -> None:
    numbers = np.array([stable_uniform("0", str(name)) for name in range(20_000)])
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square with 19 degrees of freedom: 1 in 1,000
