"""The active rollout, the same on every ingress replica, with the history of its revisions."""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from roadwork_serve.api.revision_log import RevisionLog
from roadwork_serve.cascade.policy_file import load_rollout
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import ConfigError, PolicyConflict, PolicyRefused
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.validation import ConfigModel

_LOG = logging.getLogger("ray.serve.roadwork.policy_store")
MAX_REVISIONS = 100
_MAX_MESSAGE = 1000  # characters of an error

Origin = Literal["config", "put", "rollback"]


class StoredRevision(ConfigModel):
    """A rollout as it became active."""

    revision: int = Field(description="Number of the revision, from 1.")
    origin: Origin = Field(description="What created the revision.")
    author: str = Field(description="Name of the API key that made the change, or serve_config.")
    created_at: str = Field(description="Time of the change, UTC, ISO 8601.")
    rollout: Rollout = Field(description="The rollout.")
    rollback_of: int | None = Field(default=None, description="Number of the revision that a rollback restored.")

    @property
    def version(self) -> str:
        """Version of the policy that answers."""
        return self.rollout.policy.version


def parse_rollout(value: object) -> Rollout:
    """Return the rollout in plain data, which may be a policy alone. Raises PolicyRefused."""
    if isinstance(value, Mapping) and "version" in value:
        value = {"policy": value}
    try:
        return Rollout.parse(value)
    except ConfigError as error:
        raise PolicyRefused(str(error)[:_MAX_MESSAGE]) from None


class PolicyStore:
    """Revisions of the rollout in a log that all ingress replicas share. The newest is active.

    Args:
        log: The shared log.
        profile: The profile of the server.
        on_change: Called with the rollout whenever another one becomes active on this replica.
    """

    def __init__(self, log: RevisionLog, profile: Profile, on_change: Callable[[Rollout], None]) -> None:
        self._log = log
        self._profile = profile
        self._on_change = on_change
        #: Number of the revision that is active on this replica; 0 before the first.
        self.revision = 0
        self._parsed: dict[int, StoredRevision] = {}  # records never change

    async def refresh(self) -> int:
        """Activate the newest revision, if it is not active here yet. Return its number, 0 if there is none."""
        if await self._log.read(self.revision + 1) is None and self.revision:
            return self.revision
        revisions = await self.revisions()
        if revisions:
            self._apply(revisions[-1])
        return self.revision

    async def revisions(self) -> list[StoredRevision]:
        """Return the stored revisions, the newest last."""
        numbers = await self._log.numbers()
        for number in numbers:
            if number not in self._parsed and (record := await self._log.read(number)) is not None:
                self._parsed[number] = StoredRevision.model_validate_json(record)
        self._parsed = {number: self._parsed[number] for number in numbers if number in self._parsed}
        return list(self._parsed.values())

    async def configure(self, config: Mapping[str, Any]) -> None:
        """Apply the rollout of a `user_config`. Raises ConfigError, and PolicyConflict as `put` does.

        A new replica starts with the deployed config. If that config is already in the history, it is ignored, so that
        policies put later stay active.
        """
        rollout = load_rollout(config, self._profile.policy)
        while True:
            revisions = await self.revisions()
            if revisions:
                self._apply(revisions[-1])
            earlier = [revision for revision in revisions if revision.origin == "config"]
            if earlier and earlier[-1].rollout == rollout:
                return
            _check_versions(rollout, revisions)
            if revision := await self._add(revisions, "config", "serve_config", rollout):
                self._apply(revision)
                return

    async def put(self, rollout: Rollout, author: str) -> StoredRevision:
        """Activate a rollout that has passed `check`. The active one again changes nothing.

        Raises PolicyConflict if a version has been used for another policy.
        """
        while True:
            revisions = await self.revisions()
            if revisions and revisions[-1].rollout == rollout:
                self._apply(revisions[-1])
                return revisions[-1]
            if not revisions:  # without a configuration: the revision that a rollback restores
                await self._add(revisions, "config", "profile", load_rollout({}, self._profile.policy))
                continue
            _check_versions(rollout, revisions)
            if revision := await self._add(revisions, "put", author, rollout):
                self._apply(revision)
                return revision

    def check(self, rollout: Rollout) -> None:
        """Raise PolicyRefused for a rollout that needs what this profile lacks."""
        for policy in rollout.policies:
            if missing := {step.stage for step in policy.photo + policy.clip} - set(self._profile.stages):
                raise PolicyRefused(
                    f"policy {policy.version} uses {', '.join(sorted(missing))}, which profile {self._profile.name} "
                    f"lacks; it has {', '.join(self._profile.stages)}"
                )
        if rollout.shadow and rollout.shadow.second_head:
            backbone = self._profile.stages.get("backbone")
            if backbone is None or self._profile.engines[backbone.engine].features.second_head is None:
                raise PolicyRefused(
                    "shadow.second_head: stage 1 has none; set features.second_head of its engine in the profile"
                )

    async def roll_back(self, author: str) -> StoredRevision:
        """Activate the revision before the active one; a second rollback goes back further.

        Raises PolicyConflict if there is none.
        """
        while True:
            revisions = await self.revisions()
            by_number = {revision.revision: revision for revision in revisions}
            current = revisions[-1] if revisions else None
            target = None if current is None else by_number.get((current.rollback_of or current.revision) - 1)
            if target is not None and target.rollback_of is not None:
                target = by_number.get(target.rollback_of)
            if target is None:
                raise PolicyConflict("no earlier revision is stored; put the policy you want")
            if revision := await self._add(revisions, "rollback", author, target.rollout, target.revision):
                self._apply(revision)
                return revision

    def _apply(self, revision: StoredRevision) -> None:
        if revision.revision > self.revision:  # it may have been read before a newer one became active
            self.revision = revision.revision
            self._on_change(revision.rollout)
            _LOG.info("Policy %s is active: revision %d, %s.", revision.version, revision.revision, revision.origin)

    async def _add(
        self,
        revisions: list[StoredRevision],
        origin: Origin,
        author: str,
        rollout: Rollout,
        rollback_of: int | None = None,
    ) -> StoredRevision | None:
        """Add the next revision and return it; return None if another replica added one first."""
        revision = StoredRevision(
            revision=revisions[-1].revision + 1 if revisions else 1,
            origin=origin,
            author=author,
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            rollout=rollout,
            rollback_of=rollback_of,
        )
        if not await self._log.add(revision.revision, revision.model_dump_json(exclude_none=True).encode()):
            return None
        for old in revisions[: -(MAX_REVISIONS - 1)]:
            await self._log.drop(old.revision)
        return revision


def _check_versions(rollout: Rollout, revisions: list[StoredRevision]) -> None:
    """Raise PolicyConflict if one of the versions has been used for another policy."""
    known = {policy.version: policy for revision in revisions for policy in revision.rollout.policies}
    for policy in rollout.policies:
        if known.get(policy.version, policy) != policy:
            raise PolicyConflict(
                f"version {policy.version!r} has been used for a different policy; verdicts of the two could not be "
                "told apart: give this policy a version of its own"
            )
