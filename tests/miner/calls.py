"""Calls as a validator makes them, and a fake cascade."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import Any

from bittensor_core import Keypair

from roadwork_serve.errors import StageLost
from roadwork_serve.miner.axon import Axon, Limits
from roadwork_serve.miner.blacklist import Blacklist, BlacklistConfig
from roadwork_serve.miner.forward import ForwardCache
from roadwork_serve.miner.hotkeys import verify
from roadwork_serve.miner.metagraph import Metagraph, NeuronInfo
from roadwork_serve.miner.metrics import MinerMetrics
from roadwork_serve.miner.nonces import NonceStore
from roadwork_serve.miner.priority import PrioritySemaphore
from roadwork_serve.miner.protocol import BODY_HASH
from roadwork_serve.schema import Exit, Verdict
from tests.journal.made import verdict

MINER, VALIDATOR, STRANGER, POOR, NEIGHBOUR, BANNED = (
    Keypair.create_from_uri(f"//{name}") for name in ("Miner", "Validator", "Stranger", "Poor", "Neighbour", "Banned")
)
NEURONS = Metagraph(
    7,
    1.0,
    {
        key.ss58_address: NeuronInfo(uid, key.ss58_address, stake, permit)
        for uid, (key, stake, permit) in enumerate(
            [(VALIDATOR, 5000.0, True), (POOR, 1.0, True), (NEIGHBOUR, 9000.0, False), (BANNED, 9000.0, True)]
        )
    },
)
TERMS = BlacklistConfig(deny=frozenset({BANNED.ss58_address}), min_stake=100.0, per_minute=10_000)
PICTURE = b"\xff\xd8\xff a picture"


class FakeCascade:
    """A cascade that returns `probability` once `gate` is open, or raises `error`. asked: the images it got.

    away: number of failing readiness checks. stalls: it answers only at its deadline.
    """

    def __init__(self) -> None:
        self.probability = 0.9
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.asked: list[tuple[bytes, int]] = []
        self.begun = asyncio.Event()
        self.away = 0
        self.stalls = False

    async def ready(self) -> None:
        self.away -= 1
        if self.away >= 0:
            raise StageLost("there is no application roadwork")

    async def classify(self, data: bytes, deadline_ms: int, request_id: str, key: str) -> Verdict:
        self.asked.append((data, deadline_ms))
        self.begun.set()
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        if self.stalls:
            await asyncio.sleep(deadline_ms / 1000)
            return verdict(request_id, self.probability, exit=Exit(stage="backbone", reason="deadline"))
        return verdict(request_id, self.probability)


def headers(
    route: str = "ImageSynapse",
    key: Keypair = VALIDATOR,
    to: str = MINER.ss58_address,
    age_s: float = 0.0,
    nonce: int | None = None,
    timeout: str = "9.0",
    **changes: str | None,
) -> list[tuple[str, str]]:
    """Return the headers of a Dendrite's call. `changes` replaces headers; None removes one."""
    nonce = time.time_ns() - int(age_s * 1e9) if nonce is None else nonce
    message = f"{nonce}.{key.ss58_address}.{to}.uuid-1.{BODY_HASH}".encode()
    values: dict[str, str | None] = {
        "name": route,
        "timeout": timeout,
        "bt_header_axon_ip": "127.0.0.1",
        "bt_header_axon_port": "8091",
        "bt_header_axon_hotkey": to,
        "bt_header_dendrite_ip": "127.0.0.1",
        "bt_header_dendrite_version": "10005000",
        "bt_header_dendrite_nonce": str(nonce),
        "bt_header_dendrite_uuid": "uuid-1",
        "bt_header_dendrite_hotkey": key.ss58_address,
        "bt_header_dendrite_signature": "0x" + bytes(key.sign(message)).hex(),
        "computed_body_hash": BODY_HASH,
        "header_size": "640",
        "total_size": "3111",
        "content-type": "application/json",
    }
    return [(name, value) for name, value in (values | changes).items() if value is not None]


def body(picture: bytes = PICTURE, **fields: Any) -> bytes:
    """Return a synapse's JSON."""
    image = base64.b64encode(picture).decode()
    synapse = {"name": "ImageSynapse", "timeout": 9.0, "image": image, "prediction": -1.0, "testnet_label": -1}
    return json.dumps(synapse | fields).encode()


def axon(
    cascade: FakeCascade,
    terms: BlacklistConfig = TERMS,
    semaphore: PrioritySemaphore | None = None,
    limits: Limits = Limits(max_body=2**20),  # noqa: B008 - it is frozen
    counts: MinerMetrics | None = None,
    neurons: Callable[[], Metagraph] = lambda: NEURONS,
) -> Axon:
    """Return an axon for MINER's hotkey."""
    return Axon(
        MINER.ss58_address,
        verify,
        Blacklist(terms, neurons),
        NonceStore(),
        ForwardCache(cascade, semaphore or PrioritySemaphore(8, 8)),
        counts or MinerMetrics(),
        limits,
    )
