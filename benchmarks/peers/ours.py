"""This project's own server, configured as in its documentation: one profile, one policy.

By default it keeps its journal and its access log, which no other server here does. It is measured without them, too.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks.bulk import POLICY
from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import PROFILE, UNSURE, weights
from benchmarks.server import environment_in, write_config

_CASCADE = {
    "version": "cascade",
    "photo": [{"stage": "backbone", "exit": list(UNSURE)}, {"stage": "signs", "exit": [0.5, 0.5]}],
    "clip": POLICY["clip"],
}


def settings(folder: Path, arguments: Arguments, journal: bool) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a server that keeps all its files in a folder."""
    policy = folder / "policy.yaml"
    policy.write_text(yaml.safe_dump(_CASCADE if arguments.workload.reads_signs else POLICY))
    config = folder / "serve.yaml"
    write_config(config, {"profile": PROFILE, "overrides": _overrides(arguments, policy, journal)})
    serve_config = yaml.safe_load(config.read_text())
    serve_config["http_options"]["port"] = arguments.port
    if not journal:
        serve_config["logging_config"] = {"enable_access_log": False}
    config.write_text(yaml.safe_dump(serve_config))
    return [sys.executable, "-m", "deployments.serve_program", str(config)], environment_in(folder)


def _overrides(arguments: Arguments, policy: Path, journal: bool) -> dict[str, Any]:
    workload = arguments.workload
    resources = {"threads": arguments.threads, "replicas": arguments.workers}
    stages: dict[str, Any] = dict.fromkeys(("closeup", "signs", "vlm", "reasoner", "video"))
    engines: dict[str, Any] = dict.fromkeys(("ocr", "qwen3-vl", "molmo2"))
    if workload.reads_signs:
        del stages["signs"]
        engines["ocr"] = resources
    return {
        "policy": str(policy),
        "journal": {"enabled": journal},
        "ingress": {
            "default_deadline_ms": int(1000 * arguments.limit_s),
            "decode_processes": arguments.workers,
        },
        "stages": {**stages, "backbone": {"max_batch": workload.batch}},
        "engines": {
            **engines,
            "backbone": {
                **asdict(workload.own_engine),
                "model": weights(workload.backbone),
                **resources,
                "replicas": arguments.first_stage_workers,
            },
        },
    }
