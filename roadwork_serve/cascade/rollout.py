"""What an ingress goes by: the policy that answers, one on half of the traffic, one that only watches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from roadwork_serve.cascade.parsing import entries_of, number
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.hashing import stable_uniform

Arm = Literal["a", "b"]
Read = Callable[[object], Policy]
MAX_CONCURRENT = 16
DEFAULT_CONCURRENT_AUDITS = 4


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """An A/B test: the share of keys, 0 to 1, that this policy answers."""

    policy: Policy
    share: float


@dataclass(frozen=True, slots=True)
class ShadowPolicy:
    """A policy that judges a share of the traffic, 0 to 1, beside the one that answers, and changes no answer.

    second_head: stage 1's word is that of its second head. at_once: items judged at the same time at most, a replica.
    """

    policy: Policy
    share: float
    second_head: bool = False
    max_concurrent: int = 1

    def takes(self, request_id: str) -> bool:
        """Whether the item is of its share; of the same request always the same."""
        return stable_uniform("shadow", self.policy.version, request_id) < self.share


@dataclass(frozen=True, slots=True)
class Audit:
    """A share of the items, above 0 up to 1, that every stage judges; how many at the same time at most, a replica."""

    share: float
    max_concurrent: int = DEFAULT_CONCURRENT_AUDITS

    def takes(self, request_id: str) -> bool:
        """Whether the item is of the share; of the same request always the same."""
        return stable_uniform("audit", request_id) < self.share


@dataclass(frozen=True, slots=True)
class Rollout:
    """Immutable, swapped whole. Each of its policies has a version of its own, which is in the verdicts."""

    policy: Policy
    split: TrafficSplit | None = None
    shadow: ShadowPolicy | None = None
    audit: Audit | None = None

    @property
    def policies(self) -> tuple[Policy, ...]:
        """All of them, the one that answers first."""
        return tuple(each.policy for each in (self, self.split, self.shadow) if each is not None)

    def arm(self, key: str) -> Arm | None:
        """Which policy answers requests with this key: a is `policy`, b that of the split; None without a split.

        A key stays with its arm, and when the share grows those in b stay there.
        """
        if self.split is None:
            return None
        return "b" if stable_uniform("split", self.split.policy.version, key) < self.split.share else "a"

    @classmethod
    def from_mapping(cls, mapping: object, read: Read = Policy.from_mapping) -> "Rollout":
        """Rules from what YAML or JSON holds. read: makes a policy of an entry. Raises ConfigError."""
        entries = entries_of(mapping, "rules", {"policy"}, {"split", "shadow", "audit"})
        policy = _policy(entries["policy"], "policy", read)
        split, shadow, audit = (entries.get(name) for name in ("split", "shadow", "audit"))
        rules = cls(
            policy,
            None if split is None else _split(split, read),
            None if shadow is None else _shadow(shadow, policy, read),
            None if audit is None else _survey(audit),
        )
        versions = [each.version for each in rules.policies]
        for version in versions:
            if versions.count(version) > 1:
                raise ConfigError(f"two policies have the version {version!r}; verdicts could not tell them apart")
        return rules

    def to_mapping(self) -> dict[str, Any]:
        """Plain data that `from_mapping` reads back into equal rules."""
        mapping: dict[str, Any] = {"policy": self.policy.to_mapping()}
        if self.split is not None:
            mapping["split"] = {"policy": self.split.policy.to_mapping(), "share": self.split.share}
        if self.shadow is not None:
            mapping["shadow"] = {
                "policy": self.shadow.policy.to_mapping(),
                "share": self.shadow.share,
                "second_head": self.shadow.second_head,
                "max_concurrent": self.shadow.max_concurrent,
            }
        if self.audit is not None:
            mapping["audit"] = {"share": self.audit.share, "max_concurrent": self.audit.max_concurrent}
        return mapping


def _split(value: object, read: Read) -> TrafficSplit:
    entries = entries_of(value, "split", {"policy", "share"}, set())
    return TrafficSplit(_policy(entries["policy"], "split.policy", read), number(entries["share"], "split.share", 0, 1))


def _shadow(value: object, answering: Policy, read: Read) -> ShadowPolicy:
    entries = entries_of(value, "shadow", {"share"}, {"policy", "second_head", "max_concurrent"})
    second_head, max_concurrent = (
        entries.get("second_head", False),
        _at_once(entries.get("max_concurrent", 1), "shadow"),
    )
    if not isinstance(second_head, bool):
        raise ConfigError(f"shadow.second_head: {second_head!r} should be true or false")
    if "policy" in entries:
        policy = _policy(entries["policy"], "shadow.policy", read)
    elif second_head:
        policy = answering.named(f"{answering.version}+second-head")
    else:
        raise ConfigError("shadow.policy: it is missing; add it, or second_head: true to try a second head")
    return ShadowPolicy(policy, number(entries["share"], "shadow.share", 0, 1), second_head, max_concurrent)


def _survey(value: object) -> Audit:
    entries = entries_of(value, "audit", {"share"}, {"max_concurrent"})
    share = number(entries["share"], "survey.share", 0, 1)
    if share == 0:
        raise ConfigError("survey.share: 0 asks nobody; write the share of the traffic that every stage is to judge")
    return Audit(share, _at_once(entries.get("max_concurrent", DEFAULT_CONCURRENT_AUDITS), "audit"))


def _at_once(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_CONCURRENT:
        raise ConfigError(f"{where}.at_once: {value!r} should be a whole number from 1 to {MAX_CONCURRENT}")
    return value


def _policy(value: object, where: str, read: Read) -> Policy:
    try:
        return read(value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
