"""The policy store over a log in memory, which several replicas share."""

import asyncio
from typing import Any

import pytest

from roadwork_serve.api.policy_store import MAX_REVISIONS, PolicyStore, StoredRevision, parse_rollout
from roadwork_serve.api.revision_log import InMemoryRevisionLog
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import ConfigError, PolicyConflict, PolicyRefused
from roadwork_serve.profiles.load import load_profile

PROFILE = load_profile("mini")


def policy(version: str, **fields: object) -> dict[str, Any]:
    steps = [{"stage": "backbone", "exit": [0.1, 0.9]}]
    return {"version": version, "photo": steps, "clip": steps, **fields}


class Replica:
    def __init__(self, log: InMemoryRevisionLog) -> None:
        self.activated: list[Rollout] = []
        self.store = PolicyStore(log, PROFILE, self.activated.append)

    @property
    def versions(self) -> list[str]:
        return [rollout.policy.version for rollout in self.activated]

    async def put(self, rollout: object, author: str) -> StoredRevision:
        return await put(self.store, rollout, author)


async def put(store: PolicyStore, value: object, author: str) -> StoredRevision:
    rollout = parse_rollout(value)
    store.check(rollout)
    return await store.put(rollout, author)


@pytest.fixture
def log() -> InMemoryRevisionLog:
    return InMemoryRevisionLog()


async def test_a_policy_put_on_one_replica_reaches_the_others(log: InMemoryRevisionLog):
    one, other = Replica(log), Replica(log)
    for replica in (one, other):
        await replica.store.configure({"policy": policy("a")})
    revision = await one.put(policy("b"), "ann")
    assert (revision.revision, revision.version, revision.author, revision.origin) == (2, "b", "ann", "put")
    assert other.versions == ["a"]
    assert await other.store.refresh() == 2
    assert await other.store.refresh() == 2
    assert one.versions == other.versions == ["a", "b"]


async def test_a_new_replica_uses_the_last_policy_put_instead_of_its_configuration(log: InMemoryRevisionLog):
    one = Replica(log)
    await one.store.configure({"policy": policy("a")})
    await one.put(policy("b"), "ann")
    late = Replica(log)
    await late.store.configure({"policy": policy("a")})
    assert late.versions == ["b"]
    assert len(await late.store.revisions()) == 2


async def test_a_changed_configuration_replaces_the_policy_put(log: InMemoryRevisionLog):
    one, other = Replica(log), Replica(log)
    await one.store.configure({"policy": policy("a")})
    await one.put(policy("b"), "ann")
    await asyncio.gather(*(each.store.configure({"policy": policy("c")}) for each in (one, other)))
    assert (one.versions[-1], other.versions[-1]) == ("c", "c")
    assert [revision.origin for revision in await one.store.revisions()] == ["config", "put", "config"]


async def test_a_rollout_with_a_split_and_a_shadow_is_activated_atomically(log: InMemoryRevisionLog):
    one = Replica(log)
    rules = {
        "policy": policy("a"),
        "split": {"policy": policy("b"), "share": 0.2},
        "shadow": {"policy": policy("s"), "share": 0.1},
    }
    await one.put(rules, "ann")
    assert [each.version for each in one.activated[-1].policies] == ["a", "b", "s"]


async def test_putting_the_same_policy_again_changes_nothing(log: InMemoryRevisionLog):
    one = Replica(log)
    first = await one.put(policy("a"), "ann")
    assert await one.put(policy("a"), "bob") == first
    assert one.versions == ["a"]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"version": "x"}, "policy.clip is missing"),
        ([], "it should be a mapping"),
        (None, "None; it should be a mapping"),
        ("mini", "it should be a mapping"),
        ({"policy": "mini"}, "it should be a mapping"),
        ({"policy": policy("a"), "shadow": {"second_head": True, "share": 1}}, "second_head: stage 1 has none"),
        (policy("a", degradation_levels=[{"queue_wait_ms": 5, "band_factor": 7}]), "band_factor"),
        (policy("x" * 200), "at most 128"),
    ],
)
async def test_an_invalid_policy_is_rejected_and_the_old_one_stays_active(
    log: InMemoryRevisionLog, rules: object, message: str
):
    one = Replica(log)
    await one.store.configure({"policy": policy("a")})
    with pytest.raises(PolicyRefused, match=message):
        await one.put(rules, "ann")
    assert one.versions == ["a"]
    assert len(await one.store.revisions()) == 1


async def test_a_policy_with_a_stage_that_the_profile_lacks_is_rejected(log: InMemoryRevisionLog):
    small = PolicyStore(log, load_profile("mini", {"stages": {"video": None}}), lambda _: None)
    with pytest.raises(PolicyRefused, match="uses video, which profile mini lacks; it has backbone"):
        await put(small, policy("x", clip=[{"stage": "video", "exit": [0, 1]}]), "ann")


async def test_an_error_does_not_repeat_the_whole_request(log: InMemoryRevisionLog):
    with pytest.raises(PolicyRefused) as caught:
        await Replica(log).put({"version": ["x" * 100_000], "photo": [], "clip": []}, "ann")
    assert len(str(caught.value)) <= 1000


async def test_a_version_always_names_the_same_policy(log: InMemoryRevisionLog):
    one = Replica(log)
    await one.put(policy("a"), "ann")
    await one.put(policy("b"), "ann")
    with pytest.raises(PolicyConflict, match="version 'a' has been used for a different policy"):
        await one.put(policy("a", prior=0.2), "ann")
    await one.put(policy("a"), "ann")
    assert one.versions == ["a", "b", "a"]


async def test_repeated_rollbacks_restore_ever_older_revisions(log: InMemoryRevisionLog):
    one = Replica(log)
    await one.store.configure({"policy": policy("a")})
    for version in "bc":
        await one.put(policy(version), "ann")
    back = await one.store.roll_back("bob")
    assert (back.revision, back.version, back.rollback_of, back.author) == (4, "b", 2, "bob")
    assert (await one.store.roll_back("bob")).version == "a"
    with pytest.raises(PolicyConflict, match="no earlier revision is stored"):
        await one.store.roll_back("bob")
    await one.put(policy("d"), "ann")
    assert (await one.store.roll_back("bob")).version == "a"
    assert one.versions == ["a", "b", "c", "b", "a", "d", "a"]


async def test_without_history_a_rollback_fails(log: InMemoryRevisionLog):
    with pytest.raises(PolicyConflict):
        await Replica(log).store.roll_back("ann")


async def test_concurrent_changes_are_all_recorded_and_the_last_is_active_everywhere(log: InMemoryRevisionLog):
    class Slow(InMemoryRevisionLog):
        async def numbers(self) -> list[int]:
            found = await super().numbers()
            await asyncio.sleep(0)  # others come in between
            return found

    shared = Slow()
    replicas = [Replica(shared) for _ in range(4)]
    await asyncio.gather(*(each.put(policy(f"v{at}"), "ann") for at, each in enumerate(replicas)))
    revisions = await replicas[0].store.revisions()
    assert [revision.revision for revision in revisions] == [1, 2, 3, 4, 5]
    assert sorted(revision.version for revision in revisions[1:]) == ["v0", "v1", "v2", "v3"]
    for each in replicas:
        await each.store.refresh()
    assert {each.versions[-1] for each in replicas} == {revisions[-1].version}


async def test_without_a_configuration_the_first_revision_is_the_profiles_policy(log: InMemoryRevisionLog):
    one = Replica(log)
    await one.put(policy("a"), "ann")
    assert (await one.store.roll_back("ann")).version.startswith("mini")


async def test_a_stale_revision_does_not_replace_a_newer_one(log: InMemoryRevisionLog):
    one = Replica(log)
    await one.store.configure({"policy": policy("a")})
    stale = (await one.store.revisions())[-1]
    await one.put(policy("b"), "ann")
    one.store._apply(stale)
    assert (one.store.revision, one.versions) == (2, ["a", "b"])


async def test_a_configuration_does_not_give_a_known_version_to_another_policy(log: InMemoryRevisionLog):
    one, late = Replica(log), Replica(log)
    await one.store.configure({"policy": policy("a")})
    await one.put(policy("b"), "ann")
    for replica in (one, late):
        with pytest.raises(PolicyConflict, match="version 'b' has been used"):
            await replica.store.configure({"policy": policy("b", prior=0.01)})
        assert replica.versions[-1] == "b"
        assert replica.activated[-1].policy.prior == 0.5


async def test_history_is_bounded(log: InMemoryRevisionLog):
    one = Replica(log)
    for number in range(MAX_REVISIONS + 20):
        await one.put(policy(f"v{number}"), "ann")
    revisions = await one.store.revisions()
    assert len(revisions) == MAX_REVISIONS
    assert revisions[-1].revision == MAX_REVISIONS + 21


async def test_an_invalid_configuration_is_an_error(log: InMemoryRevisionLog):
    with pytest.raises(ConfigError, match="no-such"):
        await Replica(log).store.configure({"policy": "no-such"})
