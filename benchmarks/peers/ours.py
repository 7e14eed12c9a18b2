"""This project's own server with stage 1 alone, as its documentation has it: one profile, one policy."""

import sys
from pathlib import Path

import yaml

from benchmarks.peers.model import BATCH, weights
from benchmarks.server import environment_in, free_port, write_config
from roadwork_serve.fast import fast_environment

ROOT = Path(__file__).parents[2]
POLICY = {
    "version": "stage-1",
    "photo": [{"stage": "backbone", "exit": [0.5, 0.5]}],
    "clip": [{"stage": "backbone", "exit": [0.5, 0.5]}],
}


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
        ports = ("HAPROXY_METRICS_PORT", "HAPROXY_STATS_PORT", "FALLBACK_PROXY_HTTP_PORT")
        environment |= fast_environment(folder, ROOT / "ops/haproxy/haproxy.sh")
        environment |= {f"RAY_SERVE_{name}": str(free_port()) for name in ports}
    return [str(Path(sys.executable).with_name("serve")), "run", str(config)], environment
