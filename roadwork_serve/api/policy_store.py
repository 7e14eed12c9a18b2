"""The rules in force, the same on every ingress replica, with their history."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from roadwork_serve.api.revision_log import RevisionLog
from roadwork_serve.cascade.policy_file import load_rollout
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import ConfigError, PolicyConflict, PolicyRefused
from roadwork_serve.profiles.profile import Profile

_LOG = logging.getLogger("ray.serve.roadwork.rulebook")
KEPT = 100  # editions
_MAX_TOLD = 1000  # characters of an error

Origin = Literal["config", "put", "rollback"]


@dataclass(frozen=True, slots=True)
class StoredRevision:
    """Rules as they came into force.

    by: who wanted it, the name of a key. at: when, UTC, ISO 8601. restores: the number of the edition whose rules a
    rollback brought back.
    """

    number: int
    origin: Origin
    by: str
    at: str
    rules: dict[str, Any]
    restores: int | None = None

    @property
    def version(self) -> str:
        """Of the policy that answers."""
        return self.rules["policy"]["version"]


class PolicyStore:
    """Editions of the rules on a shelf that all ingress replicas share. The newest is in force.

    adopt: told of the rules whenever others come into force here.
    """

    def __init__(self, shelf: RevisionLog, profile: Profile, adopt: Callable[[Rollout], None]) -> None:
        self._shelf = shelf
        self._profile = profile
        self._adopt = adopt
        self.number = 0  # of the edition in force here
        self._known: dict[int, StoredRevision] = {}  # they never change

    async def look(self) -> int:
        """Adopt the newest edition, if it is not in force here yet. Returns its number, 0 while there is none."""
        if await self._shelf.read(self.number + 1) is None and self.number:
            return self.number
        editions = await self.editions()
        if editions and editions[-1].number > self.number:
            self._take(editions[-1])
        return self.number

    async def editions(self) -> list[StoredRevision]:
        """Those that are kept, the newest last."""
        numbers = await self._shelf.numbers()
        for number in numbers:
            if number not in self._known and (page := await self._shelf.read(number)) is not None:
                self._known[number] = StoredRevision(**json.loads(page))
        self._known = {number: self._known[number] for number in numbers if number in self._known}
        return list(self._known.values())

    async def configure(self, config: Mapping[str, Any]) -> None:
        """Take the rules of a `user_config`. Raises ConfigError, and PolicyConflict as `put` does.

        A replica that starts brings the configuration of all the others along: that is no news, and what was put since
        stays in force.
        """
        rules = load_rollout(config, self._profile.policy)
        while True:
            editions = await self.editions()
            if editions:
                self._take(editions[-1])
            earlier = [edition for edition in editions if edition.origin == "config"]
            if earlier and earlier[-1].rules == rules.to_mapping():
                return
            _check_versions(rules, editions)
            if edition := await self._add(editions, "config", "serve_config", rules.to_mapping()):
                self._take(edition)
                return

    async def put(self, mapping: object, by: str) -> StoredRevision:
        """Bring rules into force, or a policy alone. The same again changes nothing.

        Raises PolicyRefused when they make no sense here, PolicyConflict when a version has been used for another
        policy.
        """
        rules = self.checked(mapping)
        while True:
            editions = await self.editions()
            if editions and editions[-1].rules == rules.to_mapping():
                self._take(editions[-1])
                return editions[-1]
            if not editions:  # no configuration has brought any: what a rollback goes back to
                begun = load_rollout({}, self._profile.policy)
                await self._add(editions, "config", "profile", begun.to_mapping())
                continue
            _check_versions(rules, editions)
            if edition := await self._add(editions, "put", by, rules.to_mapping()):
                self._take(edition)
                return edition

    def checked(self, mapping: object) -> Rollout:
        """The rules, or the policy alone, in plain data. Raises PolicyRefused when they make no sense here."""
        if isinstance(mapping, Mapping) and "version" in mapping:
            mapping = {"policy": mapping}
        try:
            rules = Rollout.from_mapping(mapping)
            self._check(rules)
        except ConfigError as error:
            raise PolicyRefused(str(error)[:_MAX_TOLD]) from None
        return rules

    async def roll_back(self, by: str) -> StoredRevision:
        """Bring back what was in force before. Once more goes back further. Raises PolicyConflict at the beginning."""
        while True:
            editions = await self.editions()
            kept = {edition.number: edition for edition in editions}
            now = editions[-1] if editions else None
            before = None if now is None else kept.get((now.restores or now.number) - 1)
            if before is not None and before.restores is not None:
                before = kept.get(before.restores)
            if before is None:
                raise PolicyConflict("nothing was in force before this, as far as is kept; put the policy you want")
            if edition := await self._add(editions, "rollback", by, before.rules, before.number):
                self._take(edition)
                return edition

    def _take(self, edition: StoredRevision) -> None:
        if edition.number > self.number:  # an older one was read before another brought this into force
            self.number = edition.number
            self._adopt(Rollout.from_mapping(edition.rules))
            _LOG.info("Policy %s is in force: edition %d, %s.", edition.version, edition.number, edition.origin)

    async def _add(
        self,
        editions: list[StoredRevision],
        origin: Origin,
        by: str,
        rules: dict[str, Any],
        restores: int | None = None,
    ) -> StoredRevision | None:
        """The next edition; None when somebody else was first."""
        number = editions[-1].number + 1 if editions else 1
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        edition = StoredRevision(number, origin, by, at, rules, restores)
        if not await self._shelf.add(number, json.dumps(asdict(edition)).encode()):
            return None
        for old in editions[: -(KEPT - 1)]:
            await self._shelf.drop(old.number)
        return edition

    def _check(self, rules: Rollout) -> None:
        """Raises ConfigError for rules that ask for what this profile lacks."""
        for policy in rules.policies:
            if missing := {step.stage for step in policy.photo + policy.clip} - set(self._profile.stages):
                raise ConfigError(
                    f"policy {policy.version} asks {', '.join(sorted(missing))}, which profile {self._profile.name} "
                    f"lacks; it has {', '.join(self._profile.stages)}"
                )
        if rules.shadow and rules.shadow.second_head:
            backbone = self._profile.stages.get("backbone")
            if backbone is None or self._profile.engines[backbone.engine].features.second_head is None:
                raise ConfigError(
                    "shadow.second_head: stage 1 has none; set features.second_head of its engine in the profile"
                )


def _check_versions(rules: Rollout, editions: list[StoredRevision]) -> None:
    """Raises PolicyConflict when one of the versions stands for another policy already."""
    known = {policy.version: policy for edition in editions for policy in Rollout.from_mapping(edition.rules).policies}
    for policy in rules.policies:
        if known.get(policy.version, policy) != policy:
            raise PolicyConflict(
                f"version {policy.version!r} has been in force with other content; verdicts could not tell the two "
                "apart: give this one a version of its own"
            )
