"""Measure how ordinary photos are answered while a server is attacked: `python -m benchmarks.attacks`.

A server with the miniatures gets two photos per second: alone, beside eight of the heaviest files that the limits
accept, beside 256 bodies that arrive slowly from the same client, and while a policy names a head that never ends. The
result has the figures of the same attacks before the protections against them.
"""

import argparse
import asyncio
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from benchmarks.attacks.files import worst_files
from benchmarks.attacks.report import SOURCE, Figures, attacks
from benchmarks.attacks.requests import Served, keep_sending_slowly, spread, steadily
from benchmarks.environment import Environment
from benchmarks.server import ROOT, Server, end_in_order, started
from benchmarks.soak.samples import Sample, watch
from benchmarks.tables import RESULTS
from roadwork_serve.api.api_keys import TEXT_VARIABLE, new_key
from roadwork_serve.atomic_write import write_json

PHOTOS = ROOT / "roadwork_serve/console/samples"
PER_S, SECONDS = 2.0, 40.0
HEAVY, SLOW, SLOW_SECONDS = 8, 256, 36.0


class Attacker:
    """Attacks a server with an admin's key, which is also that of the ordinary photos."""

    def __init__(self, server: Server, key: str, photos: list[bytes]) -> None:
        self._server, self._key, self._photos = server, key, photos

    async def run(self) -> Figures:
        """Run all attacks, one after another."""
        samples: list[Sample] = []
        headers = {"Authorization": f"Bearer {self._key}"}
        async with httpx.AsyncClient(base_url=self._server.url, headers=headers) as client:
            await steadily(client, self._photos, PER_S, 10.0)  # warms up
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(watch(self._server.pid, 1.0, samples))
                alone = await steadily(client, self._photos, PER_S, SECONDS)
                calm_mib = _most_mib(samples)
                samples.clear()
                files = worst_files()
                heavy = tasks.create_task(spread(client, [files[at % len(files)] for at in range(HEAVY)], SECONDS / 2))
                beside_heavy = await steadily(client, self._photos, PER_S, SECONDS)
                heavy_served = await heavy
                heavy_mib = _most_mib(samples)
                watching.cancel()
            beside_slow = await self._beside_slow(client)
            statuses, beside_head = await self._beside_heads(client)
        return Figures(
            alone=alone,
            beside_heavy=beside_heavy,
            heavy=heavy_served,
            calm_mib=calm_mib,
            heavy_mib=heavy_mib,
            beside_slow=beside_slow,
            head_statuses=statuses,
            beside_head=beside_head,
        )

    async def _beside_slow(self, client: httpx.AsyncClient) -> Served:
        url = httpx.URL(self._server.url)
        assert url.port is not None
        slow = [asyncio.create_task(keep_sending_slowly(url.host, url.port, self._key)) for _ in range(SLOW)]
        try:
            return await steadily(client, self._photos, PER_S, SLOW_SECONDS)
        finally:
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    async def _beside_heads(self, client: httpx.AsyncClient) -> tuple[list[int], Served]:
        """Deploy a policy whose head is a FIFO, outside the folder of heads and in it."""
        policy = (await client.get("/v1/policy")).raise_for_status().json()["rollout"]["policy"]
        outside, inside = self._server.folder / "fifo", self._server.folder / "state/heads/fifo"
        for folder in (outside, inside):
            folder.mkdir(parents=True)
            for file in ("head.json", "head.safetensors"):
                os.mkfifo(folder / file)

        async def deploy() -> list[int]:
            return [
                (await client.put("/v1/policy", json=_with_head(policy, head), timeout=60)).status_code
                for head in (str(outside), "fifo")
            ]

        statuses, served = await asyncio.gather(deploy(), steadily(client, self._photos, PER_S, SECONDS / 2))
        return statuses, served


def _with_head(policy: dict[str, Any], head: str) -> dict[str, Any]:
    steps = [step | {"head": head} if step["stage"] == "backbone" else step for step in policy["photo"]]
    return policy | {"version": "with-a-head", "photo": steps}


def _most_mib(samples: list[Sample]) -> float:
    return max(sample.tree.memory_mib for sample in samples)


def main(arguments: list[str] | None = None) -> int:
    """Run the attacks. Returns 0 if the ordinary photos were answered as they should be."""
    parser = argparse.ArgumentParser("python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("--note", default="", help="circumstances of the run, recorded in the result")
    parser.add_argument("--out", type=Path, default=RESULTS / "attacks.json", help="result file")
    chosen = parser.parse_args(arguments)
    end_in_order()
    command = shlex.join(["python", "-m", "benchmarks.attacks", *(sys.argv[1:] if arguments is None else arguments)])
    environment, load = Environment.here(command), os.getloadavg()
    secret, key = new_key("attacks", "admin")
    photos = [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))]
    log, keys = ROOT / "build/attacks-server.log", {TEXT_VARIABLE: key.entry()}
    with started(log, {"profile": "mini"}, keys, settled=True) as server:
        found = asyncio.run(Attacker(server, secret, photos).run())
    listed = attacks(found)
    for attack in listed:
        for figure in attack.figures:
            print(f"{attack.name}: {figure.name}: {figure.before} -> {figure.after}")
    result = {
        "environment": asdict(environment),
        "note": chosen.note,
        "load_average": {"before": round(load[0], 1), "after": round(os.getloadavg()[0], 1)},
        "before": SOURCE,
        "passed": found.passed,
        "attacks": [asdict(attack) for attack in listed],
        "measured": asdict(found),
    }
    write_json(chosen.out, result)
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main())
