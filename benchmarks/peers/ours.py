"""This project's own server, as its documentation has it: one profile, one policy.

By default it keeps its journal and its log of requests, as nobody else here does. With the flags for throughput it does
what the others do: the page on operation tells what to leave out.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.bulk import POLICY
from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import CASCADE, UNSURE, weights
from benchmarks.server import environment_in, write_config
from benchmarks.transport import fast as fast_ports

_CASCADE = {
    "version": "cascade",
    "photo": [{"stage": "backbone", "exit": list(UNSURE)}, {"stage": "signs", "exit": [0.5, 0.5]}],
    "clip": POLICY["clip"],
}


def settings(folder: Path, told: Arguments, fast: bool) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a server, all of whose files lie in a folder."""
    policy = folder / "policy.yaml"
    policy.write_text(yaml.safe_dump(_CASCADE if told.model == CASCADE else POLICY))
    config = folder / "serve.yaml"
    write_config(config, {"profile": "mini", "overrides": _overrides(told, policy, journal=not fast)})
    written = yaml.safe_load(config.read_text())
    written["http_options"]["port"] = told.port
    if fast:
        written["logging_config"] = {"enable_access_log": False}
    config.write_text(yaml.safe_dump(written))
    environment = environment_in(folder)
    if fast:
        environment |= fast_ports(folder)
    return [str(Path(sys.executable).with_name("serve")), "run", str(config)], environment


def _overrides(told: Arguments, policy: Path, journal: bool) -> dict[str, Any]:
    computes = {"threads": told.threads, "replicas": told.workers}
    stages: dict[str, Any] = dict.fromkeys(("signs", "vlm", "reasoner", "video"))
    engines: dict[str, Any] = dict.fromkeys(("ocr", "qwen3-vl", "qwen3-vl-thinking", "molmo2"))
    if told.model == CASCADE:
        del stages["signs"]
        engines["ocr"] = computes
    return {
        "policy": str(policy),
        "journal": {"enabled": journal},
        "ingress": {"default_deadline_ms": int(1000 * told.limit_s)},
        "stages": {**stages, "backbone": {"max_batch": told.work.batch}},
        "engines": {**engines, "dinov3": {"model": weights(told.model), **computes, "replicas": told.first}},
    }
