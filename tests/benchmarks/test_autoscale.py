"""Tests of the autoscaling simulation on short days, and of the comparison of its curves."""

from dataclasses import replace
from itertools import islice

import pytest

from benchmarks.autoscale import Point, compare, interpolate, pareto_front
from benchmarks.autoscaling_sim.policies import Cascade, RayDefault, RaySettings
from benchmarks.autoscaling_sim.simulate import Simulation, StageState
from benchmarks.autoscaling_sim.world import Item, Stage, World, traffic
from roadwork_serve.autoscaling.replicas import DEFAULT_SCALING

HOUR_S = 3600.0
BUSY = replace(World(), base_per_s=12.0, peak_per_s=14.0)


class Fixed:
    """A policy that keeps the same replicas all day and records exits."""

    def __init__(self, **counts: int) -> None:
        self.counts, self.exits = counts, list[list[str]]()

    def record_arrival(self, now_s: float) -> None: ...

    def record_inference(self, stage: str, took_s: float, batch: int) -> None: ...

    def record_exit(self, stages: list[str]) -> None:
        self.exits.append(stages)

    def targets(self, now_s: float, states: dict[str, StageState]) -> dict[str, int]:
        return {name: self.counts.get(name, 1) for name in states}


def world(gpu_count: int = 1, deadline_s: float = 5.0, **stages: Stage) -> World:
    return World(gpu_count=gpu_count, deadline_s=deadline_s, stages=tuple(stages.items()))


SERIAL = Stage(0.5, 1.0, 0.0, 1, 1, 10.0, 4)


def test_items_queue_are_batched_and_miss_their_deadline():
    items = [Item(0.0, 1)] * 8
    one = Simulation(world(a=SERIAL), Fixed()).run(items)
    assert (one.items, one.in_time, one.missed) == (8, 5, 3)
    batched = Simulation(world(a=replace(SERIAL, max_batch=8)), Fixed()).run(items)
    assert batched.in_time == 8
    slots = Simulation(world(a=replace(SERIAL, slots=2)), Fixed()).run(items)
    assert slots.in_time == 8 and slots.latency_s[1] == pytest.approx(4.0)


def test_a_replica_needs_time_to_start_and_room_on_a_gpu():
    items = [Item(float(at), 1) for at in range(60)]
    day = Simulation(world(a=SERIAL), Fixed(a=3)).run(items)
    assert day.starts == 1, "a GPU has room for two halves"
    assert day.occupied_gpu_hours == pytest.approx(60 / 3600, rel=0.2)
    assert day.gpu_hours == pytest.approx(day.occupied_gpu_hours, rel=0.2)


def test_items_visit_the_stages_they_need():
    policy = Fixed()
    two = world(a=SERIAL, b=SERIAL)
    day = Simulation(two, policy).run([Item(0.0, 2), Item(10.0, 1)])
    assert day.in_time == 2
    assert policy.exits == [["a", "b"], ["a"]]


def test_traffic_is_the_same_for_a_seed_and_follows_the_day():
    items = list(traffic(World(), 1, 9 * HOUR_S))
    assert items[:5000] == list(islice(traffic(World(), 1, 9 * HOUR_S), 5000))
    night = sum(2 * HOUR_S <= item.at_s < 3 * HOUR_S for item in items)
    rush = sum(7.5 * HOUR_S <= item.at_s < 8.5 * HOUR_S for item in items)
    assert rush > 4 * night


@pytest.mark.parametrize("policy", ["cascade", "default"])
def test_both_policies_scale_up_for_an_hour_of_load(policy: str):
    scaling = Cascade(BUSY, DEFAULT_SCALING) if policy == "cascade" else RayDefault(BUSY, RaySettings(0.7))
    simulation = Simulation(BUSY, scaling)
    day = simulation.run(traffic(BUSY, 3, HOUR_S))
    assert day.starts >= 1
    assert day.missed_share < 0.1
    assert all(state.target <= state.stage.max_replicas for state in simulation.states.values())


def test_curves_are_compared():
    curve = [(1, 60, 0.004), (2, 40, 0.012), (3, 70, 0.02)]
    points = [Point("ray", at, hours, 0, missed, 0, 0) for at, hours, missed in curve]
    points.append(Point("cascade", DEFAULT_SCALING.target_utilization, 50.0, 0, 0.002, 0, 0))
    comparison = compare(points, "ray")
    assert comparison.missed_reduction == pytest.approx(1 - 0.002 / 0.008)
    assert comparison.gpu_hours_reduction == pytest.approx(1 - 50 / 60), (
        "Ray never misses as few, so its minimum is taken"
    )
    assert pareto_front([(1, 3), (2, 2), (3, 2.5), (4, 1)]) == [(1, 3), (2, 2), (4, 1)]
    assert [interpolate([(1, 3), (2, 2)], x) for x in (0, 1.5, 9)] == [3, 2.5, 2]
