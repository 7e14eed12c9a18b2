import asyncio

import pytest

from roadwork_serve.miner.blacklist import Blacklist, BlacklistConfig
from roadwork_serve.miner.metagraph import Metagraph
from roadwork_serve.miner.priority import PrioritySemaphore
from roadwork_serve.miner.protocol import CallRejected


async def test_the_highest_stake_runs_first_and_equal_stakes_in_order_of_arrival() -> None:
    semaphore, done = PrioritySemaphore(1, 10), list[str]()
    begun, gate = asyncio.Event(), asyncio.Event()

    async def one(name: str, stake: float, wait: bool = False) -> None:
        async with semaphore.slot(stake):
            done.append(name)
            begun.set()
            if wait:
                await gate.wait()

    first = asyncio.create_task(one("first", 0, wait=True))
    await begun.wait()
    rest = [asyncio.create_task(one(*each)) for each in (("a", 1), ("b", 5), ("c", 5), ("d", 9), ("left", 99))]
    await asyncio.sleep(0)
    rest.pop().cancel()
    await asyncio.sleep(0)
    assert semaphore.queued == 4
    gate.set()
    await asyncio.gather(first, *rest)
    assert done == ["first", "d", "b", "c", "a"]


async def test_a_slot_granted_to_a_cancelled_caller_goes_to_the_next() -> None:
    semaphore = PrioritySemaphore(1, 10)
    order: list[str] = []

    async def one(name: str) -> None:
        async with semaphore.slot(0):
            order.append(name)

    async with semaphore.slot(0):
        leaver, stayer = asyncio.create_task(one("leaver")), asyncio.create_task(one("stayer"))
        await asyncio.sleep(0)
    leaver.cancel()  # the slot is granted, but the task has not run yet
    await asyncio.wait([leaver, stayer], timeout=5)
    assert order == ["stayer"]
    async with asyncio.timeout(5), semaphore.slot(0):
        assert semaphore.queued == 0


async def test_the_rate_limit_refills_within_a_minute() -> None:
    now = 0.0
    guard = Blacklist(BlacklistConfig(per_minute=2), Metagraph, lambda: now)

    async def calls(count: int) -> int:
        passed = 0
        for _ in range(count):
            try:
                async with guard.limit("v"):
                    passed += 1
            except CallRejected as refusal:
                assert refusal.status == 429
        return passed

    assert await calls(5) == 2
    now = 30.0
    assert await calls(5) == 1
    now = 1000.0
    assert await calls(5) == 2


async def test_a_call_that_fails_frees_its_slot() -> None:
    guard = Blacklist(BlacklistConfig(max_concurrent=1), Metagraph)
    with pytest.raises(ZeroDivisionError):
        async with guard.limit("v"):
            raise ZeroDivisionError
    async with guard.limit("v"):
        pass


async def test_a_full_queue_admits_only_a_higher_stake() -> None:
    semaphore = PrioritySemaphore(1, 2)
    went: list[str] = []

    async def wait(name: str, stake: float) -> None:
        async with semaphore.slot(stake):
            went.append(name)

    async with semaphore.slot(0.0):
        poor, middling = asyncio.create_task(wait("poor", 1.0)), asyncio.create_task(wait("middling", 5.0))
        await asyncio.sleep(0)
        with pytest.raises(CallRejected, match="too many"):
            await wait("as poor", 1.0)
        rich = asyncio.create_task(wait("rich", 9.0))
        with pytest.raises(CallRejected, match="too many"):
            await poor
        assert semaphore.queued == 2
    await asyncio.gather(middling, rich)
    assert went == ["rich", "middling"]


def test_before_the_chain_is_read_unknown_hotkeys_get_503() -> None:
    with pytest.raises(CallRejected, match="has not read the chain") as refused:
        Blacklist(BlacklistConfig(), Metagraph).check("v")
    assert refused.value.status == 503
    assert Blacklist(BlacklistConfig(allow=frozenset({"v"})), Metagraph).check("v") == 0.0
