"""This project's own server with stage 1 alone, as its documentation has it: one profile, one policy."""

import sys
from pathlib import Path

import yaml

from benchmarks.bulk import POLICY
from benchmarks.peers.model import BATCH, weights
from benchmarks.server import environment_in, write_config
from benchmarks.transport import fast as fast_ports


def settings(folder: Path, port: int, model: str, threads: int, fast: bool) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a server on that port, all of whose files lie in a folder."""
    policy = folder / "stage-1.yaml"
    policy.write_text(yaml.safe_dump(POLICY))
    overrides = {
        "policy": str(policy),
        "stages": {"backbone": {"max_batch": BATCH}, **dict.fromkeys(("signs", "vlm", "reasoner", "video"))},
        "engines": {
            "dinov3": {"model": weights(model), "threads": threads},
            **dict.fromkeys(("ocr", "qwen3-vl", "qwen3-vl-thinking", "molmo2")),
        },
    }
    config = folder / "serve.yaml"
    write_config(config, {"profile": "mini", "overrides": overrides})
    told = yaml.safe_load(config.read_text())
    told["http_options"]["port"] = port
    config.write_text(yaml.safe_dump(told))
    environment = environment_in(folder)
    if fast:
        environment |= fast_ports(folder)
    return [str(Path(sys.executable).with_name("serve")), "run", str(config)], environment
