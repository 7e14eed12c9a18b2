"""What an ingress replica says of itself, in the words of the wire."""

import json
from typing import Protocol

from roadwork_serve.api.policy_store import StoredRevision
from roadwork_serve.cascade.audit import AuditRunner
from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.cascade.shadow import ShadowRunner
from roadwork_serve.profiles.profile import Profile, StageName
from roadwork_serve.schema import (
    MAX_DEADLINE_MS,
    AuditStats,
    Limits,
    PolicyRevision,
    ShadowStats,
    StageInfo,
    StageLoad,
    Verdict,
)


class StageLiveness(Protocol):
    """A stage client that knows whether its stage is up."""

    @property
    def up(self) -> bool:
        """Whether the stage answered its last probe."""
        ...


def limits_of(profile: Profile) -> Limits:
    """What it refuses."""
    media, ingress = profile.media, profile.ingress
    return Limits(
        max_bytes=media.max_bytes,
        max_pixels=media.max_pixels,
        max_seconds=media.max_seconds,
        max_clip_frames=media.max_clip_frames,
        max_batch_files=ingress.max_batch_files,
        max_batch_bytes=ingress.max_batch_bytes,
        max_deadline_ms=MAX_DEADLINE_MS,
        default_deadline_ms=ingress.default_deadline_ms,
    )


def stage_info(name: StageName, profile: Profile, client: StageLiveness) -> StageInfo:
    """A stage as it is deployed."""
    engine = profile.engine_of(name)
    return StageInfo(stage=name, model=engine.model, miniature=engine.miniature, up=client.up)


def stage_load(name: StageName, batcher: Batcher, client: StageLiveness) -> StageLoad:
    """What it has with a stage at the moment."""
    p90_s = batcher.p90_s
    return StageLoad(
        stage=name,
        up=client.up,
        waiting=batcher.waiting,
        in_flight=batcher.in_flight,
        queue_wait_ms=1000 * batcher.wait_s(),
        p90_ms=None if p90_s is None else 1000 * p90_s,
        breaker=batcher.breaker,
    )


def shadow_stats(rules: Rollout, shadows: ShadowRunner) -> ShadowStats | None:
    """What came of the shadow policy, if there is one."""
    if rules.shadow is None:
        return None
    version = rules.shadow.policy.version
    tally = shadows.tally(version)
    return ShadowStats(
        version=version,
        judged=tally.judged,
        agreed=tally.agreed,
        abandoned=tally.abandoned,
        mean_difference=tally.difference / tally.judged if tally.judged else None,
    )


def audit_stats(rules: Rollout, audits: AuditRunner) -> AuditStats | None:
    """What came of asking everyone, where that is wanted."""
    if rules.audit is None:
        return None
    return AuditStats(judged=audits.tally.judged, abandoned=audits.tally.abandoned)


def shadow_log_line(answered: Verdict, said: Verdict) -> str:
    """What was answered and what the shadow says, as a line of JSON."""
    told: dict[str, object] = {"request_id": answered.request_id, "media": answered.media}
    for name, verdict in (("answered", answered), ("shadow", said)):
        told[name] = {
            "policy": verdict.policy_version,
            "label": verdict.label,
            "probability": round(verdict.probability, 6),
            "exit": verdict.exit.stage,
            "reason": verdict.exit.reason,
        }
    return json.dumps(told)


def policy_revision(edition: StoredRevision) -> PolicyRevision:
    """An edition as the history names it."""
    return PolicyRevision(
        number=edition.number,
        version=edition.version,
        origin=edition.origin,
        by=edition.by,
        at=edition.at,
        restores=edition.restores,
    )
