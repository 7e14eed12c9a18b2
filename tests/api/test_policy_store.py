"""The rulebook over a shelf in memory: what replicas that share one go by."""

import asyncio
from typing import Any

import pytest

from roadwork_serve.api.policy_store import KEPT, PolicyStore
from roadwork_serve.api.revision_log import InMemoryRevisionLog
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import ConfigError, PolicyConflict, PolicyRefused
from roadwork_serve.profiles.load import load_profile

PROFILE = load_profile("mini")


def policy(version: str, **fields: object) -> dict[str, Any]:
    steps = [{"stage": "backbone", "exit": [0.1, 0.9]}]
    return {"version": version, "photo": steps, "clip": steps, **fields}


class Replica:
    def __init__(self, shelf: InMemoryRevisionLog) -> None:
        self.adopted: list[Rollout] = []
        self.book = PolicyStore(shelf, PROFILE, self.adopted.append)

    @property
    def versions(self) -> list[str]:
        return [rules.policy.version for rules in self.adopted]


@pytest.fixture
def shelf() -> InMemoryRevisionLog:
    return InMemoryRevisionLog()


async def test_what_one_replica_puts_the_others_find(shelf: InMemoryRevisionLog):
    one, other = Replica(shelf), Replica(shelf)
    for replica in (one, other):
        await replica.book.configure({"policy": policy("a")})
    edition = await one.book.put(policy("b"), "ann")
    assert (edition.number, edition.version, edition.by, edition.origin) == (2, "b", "ann", "put")
    assert other.versions == ["a"]
    assert await other.book.look() == 2
    assert await other.book.look() == 2
    assert one.versions == other.versions == ["a", "b"]


async def test_a_replica_that_starts_goes_by_what_was_put_not_by_its_configuration(shelf: InMemoryRevisionLog):
    one = Replica(shelf)
    await one.book.configure({"policy": policy("a")})
    await one.book.put(policy("b"), "ann")
    late = Replica(shelf)
    await late.book.configure({"policy": policy("a")})
    assert late.versions == ["b"]
    assert len(await late.book.editions()) == 2


async def test_another_configuration_replaces_what_was_put(shelf: InMemoryRevisionLog):
    one, other = Replica(shelf), Replica(shelf)
    await one.book.configure({"policy": policy("a")})
    await one.book.put(policy("b"), "ann")
    await asyncio.gather(*(each.book.configure({"policy": policy("c")}) for each in (one, other)))
    assert (one.versions[-1], other.versions[-1]) == ("c", "c")
    assert [edition.origin for edition in await one.book.editions()] == ["config", "put", "config"]


async def test_rules_with_a_split_and_a_shadow_are_swapped_whole(shelf: InMemoryRevisionLog):
    one = Replica(shelf)
    rules = {
        "policy": policy("a"),
        "split": {"policy": policy("b"), "share": 0.2},
        "shadow": {"policy": policy("s"), "share": 0.1},
    }
    await one.book.put(rules, "ann")
    assert [each.version for each in one.adopted[-1].policies] == ["a", "b", "s"]


async def test_the_same_again_changes_nothing(shelf: InMemoryRevisionLog):
    one = Replica(shelf)
    first = await one.book.put(policy("a"), "ann")
    assert await one.book.put(policy("a"), "bob") == first
    assert one.versions == ["a"]


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"version": "x"}, "policy: policy: clip is missing"),
        ([], "rules: .* is not a mapping"),
        (None, "rules: None is not a mapping"),
        ("mini", "not a mapping"),
        ({"policy": "mini"}, "not a mapping"),
        ({"policy": policy("a"), "shadow": {"second_head": True, "share": 1}}, "second_head: stage 1 has none"),
        (policy("a", degradation_levels=[{"queue_wait_ms": 5, "keep": 7}]), "keep"),
        (policy("x" * 200), "at most 128"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_the_old_stays(shelf: InMemoryRevisionLog, rules: object, told: str):
    one = Replica(shelf)
    await one.book.configure({"policy": policy("a")})
    with pytest.raises(PolicyRefused, match=told):
        await one.book.put(rules, "ann")
    assert one.versions == ["a"]
    assert len(await one.book.editions()) == 1


async def test_a_policy_that_asks_a_stage_the_profile_lacks_is_refused(shelf: InMemoryRevisionLog):
    small = PolicyStore(shelf, load_profile("mini", {"stages": {"video": None}}), lambda _: None)
    with pytest.raises(PolicyRefused, match="asks video, which profile mini lacks; it has backbone"):
        await small.put(policy("x", clip=[{"stage": "video", "exit": [0, 1]}]), "ann")


async def test_a_refusal_is_no_echo_of_everything_that_was_sent(shelf: InMemoryRevisionLog):
    with pytest.raises(PolicyRefused) as caught:
        await Replica(shelf).book.put({"version": ["x" * 100_000], "photo": [], "clip": []}, "ann")
    assert len(str(caught.value)) <= 1000


async def test_a_version_stands_for_one_policy_for_ever(shelf: InMemoryRevisionLog):
    one = Replica(shelf)
    await one.book.put(policy("a"), "ann")
    await one.book.put(policy("b"), "ann")
    with pytest.raises(PolicyConflict, match="version 'a' has been in force with other content"):
        await one.book.put(policy("a", prior=0.2), "ann")
    await one.book.put(policy("a"), "ann")
    assert one.versions == ["a", "b", "a"]


async def test_rollbacks_go_back_and_further_back(shelf: InMemoryRevisionLog):
    one = Replica(shelf)
    await one.book.configure({"policy": policy("a")})
    for version in "bc":
        await one.book.put(policy(version), "ann")
    back = await one.book.roll_back("bob")
    assert (back.number, back.version, back.restores, back.by) == (4, "b", 2, "bob")
    assert (await one.book.roll_back("bob")).version == "a"
    with pytest.raises(PolicyConflict, match="nothing was in force before"):
        await one.book.roll_back("bob")
    await one.book.put(policy("d"), "ann")
    assert (await one.book.roll_back("bob")).version == "a"
    assert one.versions == ["a", "b", "c", "b", "a", "d", "a"]


async def test_without_history_there_is_nothing_to_go_back_to(shelf: InMemoryRevisionLog):
    with pytest.raises(PolicyConflict):
        await Replica(shelf).book.roll_back("ann")


async def test_changes_at_the_same_moment_all_count_and_the_last_is_in_force_everywhere(shelf: InMemoryRevisionLog):
    class Slow(InMemoryRevisionLog):
        async def numbers(self) -> list[int]:
            found = await super().numbers()
            await asyncio.sleep(0)  # others come in between
            return found

    shared = Slow()
    replicas = [Replica(shared) for _ in range(4)]
    await asyncio.gather(*(each.book.put(policy(f"v{at}"), "ann") for at, each in enumerate(replicas)))
    editions = await replicas[0].book.editions()
    assert [edition.number for edition in editions] == [1, 2, 3, 4, 5]
    assert sorted(edition.version for edition in editions[1:]) == ["v0", "v1", "v2", "v3"]
    for each in replicas:
        await each.book.look()
    assert {each.versions[-1] for each in replicas} == {editions[-1].version}


async def test_without_a_configuration_the_first_edition_is_the_profiles_own(shelf: InMemoryRevisionLog):
    one = Replica(shelf)
    await one.book.put(policy("a"), "ann")
    assert (await one.book.roll_back("ann")).version.startswith("mini")


async def test_nobody_goes_back_to_an_edition_that_was_read_before_a_newer_one_came(shelf: InMemoryRevisionLog):
    one = Replica(shelf)
    await one.book.configure({"policy": policy("a")})
    stale = (await one.book.editions())[-1]
    await one.book.put(policy("b"), "ann")
    one.book._take(stale)
    assert (one.book.number, one.versions) == (2, ["a", "b"])


async def test_a_configuration_does_not_give_a_known_version_to_another_policy(shelf: InMemoryRevisionLog):
    one, late = Replica(shelf), Replica(shelf)
    await one.book.configure({"policy": policy("a")})
    await one.book.put(policy("b"), "ann")
    for replica in (one, late):
        with pytest.raises(PolicyConflict, match="version 'b' has been in force"):
            await replica.book.configure({"policy": policy("b", prior=0.01)})
        assert replica.versions[-1] == "b"
        assert replica.adopted[-1].policy.prior == 0.5


async def test_history_is_bounded(shelf: InMemoryRevisionLog):
    one = Replica(shelf)
    for number in range(KEPT + 20):
        await one.book.put(policy(f"v{number}"), "ann")
    editions = await one.book.editions()
    assert len(editions) == KEPT
    assert editions[-1].number == KEPT + 21


async def test_a_configuration_that_makes_no_sense_is_told(shelf: InMemoryRevisionLog):
    with pytest.raises(ConfigError, match="no-such"):
        await Replica(shelf).book.configure({"policy": "no-such"})
