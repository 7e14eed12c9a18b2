"""A fake node of the chain, behind the `Substrate` interface of bittensor's client."""

from typing import Any

from tests.miner.calls import MINER, VALIDATOR


class Node:
    """A node with one subnet.

    down: connecting fails. axon: the published endpoint of the miner. more: columns of the metagraph.
    """

    def __init__(self) -> None:
        self.hotkeys = [VALIDATOR.ss58_address, MINER.ss58_address]
        self.down = False
        self.there = True
        self.axon: dict[str, int] | None = None
        self.connected = self.closed = 0
        self.block = 100
        self.more: dict[str, list[int]] = {}

    async def connect(self) -> None:
        if self.down:
            raise ConnectionRefusedError("nobody listens")
        self.connected += 1

    async def close(self) -> None:
        self.closed += 1

    async def block_number(self) -> int:
        return self.block

    async def block_hash(self, block: int | None = None) -> str:
        return "0x00"

    async def runtime_call(self, api: str, method: str, params: list[Any], **_: Any) -> Any:
        assert (api, method, params) == ("SubnetInfoRuntimeApi", "get_metagraph", [72])
        if not self.there:
            return None
        n = len(self.hotkeys)
        return {
            "netuid": 72, "name": [78], "symbol": [206, 177], "block": self.block, "tempo": 360, "last_step": 90,
            "blocks_since_last_step": 10, "owner_hotkey": self.hotkeys[0], "owner_coldkey": self.hotkeys[0],
            "network_registered_at": 1, "hotkeys": self.hotkeys, "coldkeys": self.hotkeys, "active": [True] * n,
            "validator_permit": [True, *[False] * (n - 1)], "last_update": [99] * n, "rank": [65535] * n,
            "total_stake": [5_000 * 10**9, *[10**9] * (n - 1)], "axons": [None, self.axon, *[None] * (n - 2)],
        } | self.more  # fmt: skip
