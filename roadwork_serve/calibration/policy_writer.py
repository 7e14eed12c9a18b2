"""Writes policies as readable YAML files."""

import math
from pathlib import Path

import yaml

from roadwork_serve.atomic_write import write_text
from roadwork_serve.cascade.policy import Policy


def write_policy(path: Path, policy: Policy, comment: str) -> None:
    """Write a policy to a file atomically. Raises ConfigError if the disk refuses."""
    write_text(path, policy_yaml(policy, comment))


def policy_yaml(policy: Policy, comment: str) -> str:
    """Return the policy as YAML: the comment, then one line a step."""
    mapping = policy.to_mapping()
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines += [f"{name}: {mapping[name]}" for name in ("version", "prior", "decision_threshold")]
    if policy.degradation_levels:
        lines.append(f"degradation_levels: {_flow(mapping['degradation_levels'])}")
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
