"""The rollout: the policy that answers, one on trial on a share of the traffic, a shadow policy, and audits."""

from typing import Annotated, Any, Literal, Self, cast

from pydantic import ConfigDict, Field, model_validator

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.hashing import stable_uniform
from roadwork_serve.validation import ConfigModel, Probability, rule_error

Arm = Literal["a", "b"]
MAX_CONCURRENT = 16
DEFAULT_CONCURRENT_AUDITS = 4

MaxConcurrent = Annotated[int, Field(strict=True, ge=1, le=MAX_CONCURRENT)]


class TrafficSplit(ConfigModel):
    """An A/B test: a second policy answers a share of the traffic."""

    policy: Policy = Field(description="policy of arm b")
    share: Probability = Field(description="share of keys that this policy answers")


def _policy_is_optional(schema: dict[str, Any]) -> None:
    """Say in the JSON schema that a second head needs no policy of its own."""
    schema["required"] = [name for name in schema["required"] if name != "policy"]


class ShadowPolicy(ConfigModel):
    """A policy that is evaluated on a share of the traffic without changing any answer."""

    model_config = ConfigDict(json_schema_extra=_policy_is_optional)

    policy: Policy = Field(
        description="policy to evaluate; with second_head it may be left out: the policy that answers, then"
    )
    share: Probability = Field(description="share of requests that the shadow policy evaluates, too")
    second_head: bool = Field(default=False, strict=True, description="use the prediction of stage 1's second head")
    max_concurrent: MaxConcurrent = Field(default=1, description="items at the same time at most, in each replica")

    def samples(self, request_id: str) -> bool:
        """Return whether the request is part of the share; always the same for the same request."""
        return stable_uniform("shadow", self.policy.version, request_id) < self.share


class Audit(ConfigModel):
    """Full-cascade audits: every stage predicts a share of the items, for calibration and for cost estimates."""

    share: Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)] = Field(
        description="share of requests to audit, above 0"
    )
    max_concurrent: MaxConcurrent = Field(
        default=DEFAULT_CONCURRENT_AUDITS, description="items at the same time at most, in each replica"
    )

    def samples(self, request_id: str) -> bool:
        """Return whether the request is part of the share; always the same for the same request."""
        return stable_uniform("audit", request_id) < self.share


class Rollout(ConfigModel):
    """The policies in use. Immutable, and replaced as a whole. Verdicts record the version of their policy."""

    policy: Policy = Field(description="policy that answers; arm a of a split")
    split: TrafficSplit | None = Field(default=None, description="A/B test of a second policy; none by default")
    shadow: ShadowPolicy | None = Field(default=None, description="policy to evaluate in the background")
    audit: Audit | None = Field(default=None, description="share of the traffic that every stage predicts")

    @model_validator(mode="before")
    @classmethod
    def _fill_shadow_policy(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        whole = cast("dict[str, Any]", value)
        policy, shadow = whole.get("policy"), whole.get("shadow")
        if not isinstance(shadow, dict) or "policy" in shadow:
            return whole
        if cast("dict[str, Any]", shadow).get("second_head") is not True:
            raise rule_error("it is missing; add it, or second_head: true to try a second head", "shadow.policy")
        plain: object = policy.to_mapping() if isinstance(policy, Policy) else policy
        if not isinstance(plain, dict):
            return whole
        same = dict(cast("dict[str, Any]", plain))
        same["version"] = f"{same.get('version')}+second-head"
        return {**whole, "shadow": {**cast("dict[str, Any]", shadow), "policy": same}}

    @model_validator(mode="after")
    def _check_versions(self) -> Self:
        versions = [each.version for each in self.policies]
        for version in versions:
            if versions.count(version) > 1:
                raise rule_error(
                    f"two policies have the version {version!r}; verdicts could not be told apart: rename one of them"
                )
        return self

    @property
    def policies(self) -> tuple[Policy, ...]:
        """All policies, the one that answers first."""
        return tuple(each.policy for each in (self, self.split, self.shadow) if each is not None)

    def arm(self, key: str) -> Arm | None:
        """Return the arm that answers requests with this key: a is `policy`, b that of the split; None without a split.

        A key stays in its arm, and keys in b stay there as the share grows.
        """
        if self.split is None:
            return None
        return "b" if stable_uniform("split", self.split.policy.version, key) < self.split.share else "a"
