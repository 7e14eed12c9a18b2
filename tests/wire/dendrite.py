"""Calls a miner as a validator does. Run by the Python of .venv-dendrite: bittensor 10.5.0, without this project.

Its one argument is a JSON file: port, hotkey, at_once, calls (each the name of a synapse and the file of a picture).
The results go to standard output in order, one JSON line per call.
"""

import asyncio
import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

import bittensor.utils.networking

bittensor.utils.networking.get_external_ip = lambda: "192.0.2.1"  # a Dendrite asks the internet for it

from bittensor import AxonInfo, Dendrite, Synapse  # noqa: E402
from bittensor_wallet import Keypair  # noqa: E402


class ImageSynapse(Synapse):
    image: str = ""
    prediction: float = -1.0
    testnet_label: int = -1


class ExtendedImageSynapse(ImageSynapse):
    model_url: str = ""


async def main(asked: dict[str, Any]) -> None:
    dendrite = Dendrite(Keypair.create_from_uri("//Validator"))
    axon = AxonInfo(
        version=1, ip="127.0.0.1", port=asked["port"], ip_type=4, hotkey=asked["hotkey"], coldkey=asked["hotkey"]
    )
    gate = asyncio.Semaphore(asked["max_concurrent"])

    async def one(name: str, picture: bytes) -> dict[str, object]:
        kind = {"ImageSynapse": ImageSynapse, "ExtendedImageSynapse": ExtendedImageSynapse}[name]
        image = base64.b64encode(picture).decode()
        async with gate:
            began = time.monotonic()
            answer = await dendrite.call(axon, kind(image=image, testnet_label=1), timeout=9.0, deserialize=False)
            return {
                "prediction": answer.prediction,
                "label": answer.testnet_label,
                "status": answer.dendrite.status_code,
                "message": answer.dendrite.status_message,
                "image": len(answer.image),
                "seconds": time.monotonic() - began,
            }

    for answer in await asyncio.gather(*(one(*call) for call in asked["pictures"])):
        print(json.dumps(answer))
    await dendrite.aclose_session()


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text())
    asyncio.run(main(job | {"pictures": [(name, Path(file).read_bytes()) for name, file in job["calls"]]}))
