from typing import Any

import pytest

from deployments.bulk import Crew, crew_for
from roadwork_serve.cascade.load import load_policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.profile import Profile

NONE: tuple[float, ...] = ()


def crew(profile: Profile, workers: int | None, cpus: int, cards: tuple[float, ...] = NONE) -> Crew:
    return crew_for(profile, load_policy(profile.policy), workers, cpus, cards)


@pytest.mark.parametrize(
    ("workers", "cpus", "expected"),
    [
        (None, 1, Crew(1, 1, 0)),
        (None, 2, Crew(1, 2, 0)),
        (None, 16, Crew(4, 4, 0)),
        (None, 19, Crew(4, 4, 0)),
        (3, 16, Crew(3, 4, 0)),
        (8, 8, Crew(8, 1, 0)),
    ],
)
def test_on_cpus_a_worker_has_four_cores_where_there_are_so_many(workers: int | None, cpus: int, expected: Crew):
    assert crew(load_profile("mini"), workers, cpus) == expected


def test_on_cards_each_has_a_worker_of_its_own():
    profile = load_profile("gpu-24gb")
    assert crew(profile, None, 8, (23.6, 23.6)) == Crew(2, 1, 1)
    assert crew(profile, 1, 8, (23.6, 23.6)) == Crew(1, 1, 1)
    assert crew(profile, 4, 8, (23.6,)) == Crew(1, 1, 1), "more would wait for a card for ever"


@pytest.mark.parametrize(
    ("profile", "cards", "told"),
    [
        ("gpu-24gb", NONE, "needs a GPU, and there is none"),
        ("gpu-2x24gb", (23.6, 23.6), "a worker has one card, and .*ask a server"),
    ],
)
def test_what_does_not_fit_one_card_is_refused(profile: str, cards: tuple[float, ...], told: str):
    with pytest.raises(ConfigError, match=told):
        crew(load_profile(profile), None, 8, cards)


def test_engines_that_take_turns_are_refused():
    engines: dict[str, Any] = {name: {"turns": "both"} for name in ("qwen3-vl", "molmo2")}
    profile = load_profile("gpu-80gb")
    names = [name for name in profile.engines if "vl" in name or "molmo" in name][:2]
    profile = load_profile("gpu-80gb", {"engines": {name: engines["molmo2"] for name in names}})
    with pytest.raises(ConfigError, match="take turns, which workers cannot"):
        crew(profile, None, 8, (79.1,))


@pytest.mark.parametrize(("workers", "cpus"), [(None, 0), (4, 2)])
def test_workers_that_would_wait_for_a_core_for_ever_are_refused(workers: int | None, cpus: int):
    with pytest.raises(ConfigError, match=f"Ray has {cpus} free"):
        crew(load_profile("mini"), workers, cpus)
