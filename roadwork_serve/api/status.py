"""The status of an ingress replica: readiness, /v1/info and /v1/stats."""

import json
import logging
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Protocol

from roadwork_serve.api.admission import Admission
from roadwork_serve.api.media_decoder import MediaDecoder
from roadwork_serve.api.observers import VerdictObserver
from roadwork_serve.api.peers import Peers
from roadwork_serve.api.policy_store import PolicyStore
from roadwork_serve.api.stats import RequestStatsCollector
from roadwork_serve.cascade.audit import AuditRunner
from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.cascade.router import Router
from roadwork_serve.cascade.shadow import ShadowRunner
from roadwork_serve.errors import NotReady
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.profiles.task import Task
from roadwork_serve.schema import (
    MAX_DEADLINE_MS,
    AuditStats,
    JournalLoad,
    Limits,
    Readiness,
    ReplicaStats,
    ShadowStats,
    StageInfo,
    StageLoad,
    Stats,
    TaskInfo,
    Verdict,
)
from roadwork_serve.server_state import Info

_SHADOW_LOG = logging.getLogger("ray.serve.roadwork.shadows")


class StageLiveness(Protocol):
    """A stage client that knows whether its stage is up."""

    @property
    def up(self) -> bool:
        """True if the stage answered its last probe."""
        ...


class Status:
    """Reports the state of this replica, and the statistics of all.

    Args:
        profile: The profile of the server.
        clients: The stage clients by name.
        batchers: The batchers by stage.
        router: The router.
        policies: The policy store.
        admission: The requests in flight.
        decoder: The files being decoded.
        requests: The request statistics.
        journal: Returns the state of the journal's outbox.
        peers: The other ingress replicas.
        progress: Returns how far the stages are that load, by name.
    """

    def __init__(
        self,
        profile: Profile,
        clients: Mapping[str, StageLiveness],
        batchers: Mapping[str, Batcher],
        router: Router,
        policies: PolicyStore,
        admission: Admission,
        decoder: MediaDecoder,
        requests: RequestStatsCollector,
        journal: Callable[[], JournalLoad | None],
        peers: Peers,
        progress: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._profile = profile
        self._clients = clients
        self._batchers = batchers
        self._router = router
        self._policies = policies
        self._admission = admission
        self._decoder = decoder
        self._requests = requests
        self._journal = journal
        self._peers = peers
        self._progress = progress
        #: True once all required stages have been up.
        self.warmed = False
        #: Why the latest policy of the configuration was rejected, if it was.
        self.policy_error: str | None = None

    def readiness(self) -> Readiness:
        """Return the stages that are up. Raises NotReady; see `check_ready`."""
        self.check_ready()
        up = [name for name, client in self._clients.items() if client.up]
        journal = self._journal()
        return Readiness(
            up=up,
            down=[name for name in self._clients if name not in up],
            notes={name: spec.note for name, spec in self._profile.stages.items() if spec.note is not None},
            journal_error=None if journal is None else journal.error,
        )

    def check_ready(self) -> None:
        """Raise NotReady until all required stages have been up, and while none is.

        A stage that goes down later does not make the server unready: it is skipped, and verdicts report it.
        """
        if not self.warmed:
            stages, progress = self._profile.stages, self._progress()
            loading = [name for name, each in self._clients.items() if stages[name].required and not each.up]
            named = [f"{name} ({progress[name]})" if name in progress else name for name in loading]
            raise NotReady(f"still loading: {', '.join(named) or 'the decoder'}")
        if not any(client.up for client in self._clients.values()):
            raise NotReady("no stage answers at the moment; each is being restarted")

    def info(self) -> Info:
        """Return the description of the server."""
        profile = self._profile
        return Info(
            version=version("roadwork-serve"),
            profile=profile.name,
            task=task_info(profile.task),
            policy=self._router.rollout.policy,
            policy_error=self.policy_error,
            stages=[stage_info(name, profile, self._clients[name]) for name in profile.stages],
            in_flight=self._admission.in_flight,
            limits=limits_of(profile),
        )

    def load(self) -> ReplicaStats:
        """Return the load and the statistics of this replica."""
        rollout = self._router.rollout
        return ReplicaStats(
            replica=self._peers.replica,
            in_flight=self._admission.in_flight,
            decoding=self._decoder.count,
            policy_version=rollout.policy.version,
            policy_revision=self._policies.revision,
            degradation_level=self._router.degradation_level,
            stages=[stage_load(name, self._batchers[name], self._clients[name]) for name in self._profile.stages],
            requests=self._requests.snapshot(),
            shadow=shadow_stats(rollout, self._router.shadows),
            audit=audit_stats(rollout, self._router.audits),
            journal=self._journal(),
        )

    async def stats(self) -> Stats:
        """Return the statistics of every replica that answers in time."""
        return Stats(replicas=[self.load(), *await self._peers.loads()])


class ShadowLog(VerdictObserver):
    """Logs each verdict of the shadow policy beside the verdict that was returned."""

    def on_shadow(self, verdict: Verdict, shadow: Verdict) -> None:
        """Log a line of JSON."""
        _SHADOW_LOG.info("%s", shadow_log_line(verdict, shadow))


def limits_of(profile: Profile) -> Limits:
    """Return the limits of requests."""
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


def task_info(task: Task) -> TaskInfo:
    """Return the task as clients see it."""
    return TaskInfo(
        positive=task.positive, negative=task.negative, description=task.description, question=task.prompt()
    )


def stage_info(name: StageName, profile: Profile, client: StageLiveness) -> StageInfo:
    """Return a stage as it is deployed."""
    engine = profile.engine_of(name)
    return StageInfo(stage=name, model=engine.model, miniature=engine.miniature, up=client.up)


def stage_load(name: StageName, batcher: Batcher, client: StageLiveness) -> StageLoad:
    """Return the current load of a stage."""
    p90_s = batcher.p90_s
    return StageLoad(
        stage=name,
        up=client.up,
        queued=batcher.queued,
        in_flight=batcher.in_flight,
        queue_wait_ms=1000 * batcher.queue_wait_s(),
        p90_ms=None if p90_s is None else 1000 * p90_s,
        breaker=batcher.breaker,
    )


def shadow_stats(rollout: Rollout, shadows: ShadowRunner) -> ShadowStats | None:
    """Return the statistics of the shadow policy, or None if there is none."""
    if rollout.shadow is None:
        return None
    version = rollout.shadow.policy.version
    tally = shadows.counts(version)
    return ShadowStats(
        version=version,
        compared=tally.compared,
        agreed=tally.agreed,
        abandoned=tally.abandoned,
        mean_difference=tally.total_difference / tally.compared if tally.compared else None,
    )


def audit_stats(rollout: Rollout, audits: AuditRunner) -> AuditStats | None:
    """Return the statistics of the full-cascade audit, or None if there is none."""
    if rollout.audit is None:
        return None
    return AuditStats(completed=audits.counts.completed, abandoned=audits.counts.abandoned)


def shadow_log_line(verdict: Verdict, shadow: Verdict) -> str:
    """Return the returned verdict and the shadow's as a line of JSON."""
    line: dict[str, object] = {"request_id": verdict.request_id, "media": verdict.media}
    for name, each in (("active", verdict), ("shadow", shadow)):
        line[name] = {
            "policy": each.policy_version,
            "label": each.label,
            "probability": round(each.probability, 6),
            "exit": each.exit.stage,
            "reason": each.exit.reason,
        }
    return json.dumps(line)
