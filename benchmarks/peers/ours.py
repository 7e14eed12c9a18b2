"""This project's own server, configured as in its documentation: one profile, one policy.

By default it keeps its journal and its access log, which no other server here does. It is measured without them, too.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks.peers.arguments import Arguments
from benchmarks.peers.model import PROFILE, UNSURE, weights
from benchmarks.server import environment_in, write_config
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.profiles.load import load_profile

#: The policy with stage 1 alone.
ONE_STAGE: dict[str, Any] = {
    "version": "stage-1",
    "photo": [{"stage": "backbone", "exit": [0.5, 0.5]}],
    "clip": [{"stage": "backbone", "exit": [0.5, 0.5]}],
}


def two_stages(min_text_probability: float | None) -> dict[str, Any]:
    """Return the policy of the cascade: the sign reader runs where stage 1 is unsure, and text is likely enough."""
    signs = {"stage": "signs", "exit": [0.5, 0.5], "min_text_probability": min_text_probability}
    photo = [{"stage": "backbone", "exit": list(UNSURE)}, signs]
    return {"version": "cascade", "photo": photo, "clip": ONE_STAGE["clip"]}


def shipped_text_probability() -> float | None:
    """Return the probability of text from which the policy of the profile asks its sign reader about a photo."""
    policy = load_policy(load_profile(PROFILE).policy)
    return next(step.min_text_probability for step in policy.photo if step.stage == "signs")


def settings(folder: Path, arguments: Arguments, journal: bool) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a server that keeps all its files in a folder."""
    policy = folder / "policy.yaml"
    workload = arguments.workload
    gate = shipped_text_probability() if workload.own_text_gate else None
    policy.write_text(yaml.safe_dump(two_stages(gate) if workload.reads_signs else ONE_STAGE))
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
