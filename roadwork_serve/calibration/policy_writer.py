"""A policy as a file that people read, too."""

import math
from pathlib import Path

import yaml

from roadwork_serve.cascade.policy import Policy


def write_policy(path: Path, policy: Policy, comment: str) -> None:
    """The policy as a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.write_text(policy_yaml(policy, comment), encoding="utf-8")
    draft.replace(path)


def policy_yaml(policy: Policy, comment: str) -> str:
    """The policy as a file: the comment, then one line a step."""
    mapping = policy.to_mapping()
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines += [f"{name}: {mapping[name]}" for name in ("version", "prior", "decision_threshold")]
    if policy.degradation_levels:
        lines.append(f"gears: {_flow(mapping['degradation_levels'])}")
    for kind in ("photo", "clip"):
        lines.append(f"{kind}:")
        for step in mapping[kind]:
            lines.append(f"  - {_flow(step)}")
    if policy.certificate is not None:
        lines += ["certificate:", *(f"  {name}: {_flow(value)}" for name, value in mapping["certificate"].items())]
    return "\n".join(lines) + "\n"


def _flow(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.removesuffix("...\n").strip()
