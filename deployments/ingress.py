"""The deployment in front: reads the media, drives the cascade, answers over HTTP and to handles."""

import asyncio
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.handle import DeploymentHandle

from deployments.journal_client import JournalClient
from deployments.journal_outbox import JournalOutbox, NullOutbox
from deployments.loopback import stay_on_loopback
from deployments.metrics import IngressMetrics
from deployments.replica_group import ReplicaGroup
from deployments.revision_log import open_revision_log
from deployments.stage_client import RayStageClient
from roadwork_serve.api.admission import Admission, Permit
from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.api.demand_report import record_verdict, replica_demand, slots_per_replica
from roadwork_serve.api.deployment_names import INGRESS
from roadwork_serve.api.head_validation import validate_heads
from roadwork_serve.api.journal_routes import journal_routes
from roadwork_serve.api.media_decoder import MediaDecoder
from roadwork_serve.api.policy_routes import policy_routes
from roadwork_serve.api.policy_store import PolicyStore, StoredRevision
from roadwork_serve.api.problem_details import RETRY_AFTER_S
from roadwork_serve.api.request_context import RequestContext
from roadwork_serve.api.stats import RequestStatsCollector
from roadwork_serve.api.status import (
    audit_stats,
    limits_of,
    policy_revision,
    shadow_log_line,
    shadow_stats,
    stage_info,
    stage_load,
)
from roadwork_serve.api.tracing import trace_stages
from roadwork_serve.autoscaling.arrivals import ArrivalStats
from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.policy_file import load_rollout
from roadwork_serve.cascade.prediction import Item
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.cascade.router import Router
from roadwork_serve.errors import BadRequest, ConfigError, NotReady, Overloaded, PolicyConflict, RoadworkError
from roadwork_serve.profiles.profile import Profile, StageName
from roadwork_serve.schema import (
    MAX_DEADLINE_MS,
    Info,
    PolicyChange,
    PolicyState,
    Readiness,
    ReplicaStats,
    Stats,
    Verdict,
)

_LOG = logging.getLogger("ray.serve.roadwork.ingress")
_SHADOWS = logging.getLogger("ray.serve.roadwork.shadows")
_LOOK_EVERY_S = 1.0  # for rules that others brought into force
_JOIN_S = 3.0
_PROBED_S = 60.0  # that a stage which may sleep is probed after the last item
_GRACE_S = 1.0  # the batchers' own timeout is a net under that of the clients


class Ingress:
    """Batchers and router over the stages' handles. Needs a running event loop."""

    def __init__(
        self,
        profile: Profile,
        stages: Mapping[StageName, DeploymentHandle],
        journal: DeploymentHandle | None = None,
    ) -> None:
        stay_on_loopback()
        self.profile = profile
        self._clients: dict[str, RayStageClient] = {}
        self._batchers: dict[str, Batcher] = {}
        for name, handle in stages.items():
            spec, engine = profile.stages[name], profile.engine_of(name)
            quiet_s = _PROBED_S if engine.scale_to_zero else None
            client = self._clients[name] = RayStageClient(name, handle, spec.timeout_s, rests_after_s=quiet_s)
            self._batchers[name] = Batcher(
                client,
                max_batch=spec.max_batch,
                slots=spec.slots * (engine.max_replicas or engine.replicas),
                max_queue=spec.max_queue,
                timeout_s=spec.timeout_s + _GRACE_S,
                name=name,
            )
        self._metrics = IngressMetrics(profile)
        self._ledger = RequestStatsCollector(profile, time.monotonic)
        self._flow = ArrivalStats(slots_per_replica(profile))
        self._everyone = ReplicaGroup()
        self._post = (
            NullOutbox() if journal is None else JournalOutbox(profile.journal, journal, self._everyone.replica)
        )
        rules = load_rollout({}, profile.policy)
        self._router = Router(self._batchers, rules, profile.name, self._shadowed, self._post.audited)
        self._rulebook = PolicyStore(open_revision_log(self._everyone.app), profile, self._adopt)
        self._recall = JournalClient(journal, lambda: self._router.rules, self._rulebook.checked)
        self._configured = False
        self._refused: str | None = None
        self._reading = MediaDecoder(profile)
        ingress = profile.ingress
        self._admission = Admission(ingress.max_ongoing_requests, ingress.max_in_flight_bytes)
        self._warmed = False
        self._warming = asyncio.create_task(self._warm(), name="warming")
        self._watching = asyncio.create_task(self._watch(), name="rules")

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application Serve puts behind its proxy."""
        guard = Authenticator.of(self.profile.ingress)
        app = http_app(self, guard, on_stop=self.aclose, name_requests=False)
        for routes in (*policy_routes(self, guard), journal_routes(self._recall, guard)):
            app.include_router(routes)
        return app

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take the rules of a `user_config`: a policy by name, by path or whole, and a split and a shadow if wanted.

        They replace the old ones whole, or, when they make no sense, not at all: a server that runs goes on with those
        it has and says why in `/v1/info`; one that starts refuses to, with ConfigError.
        """
        try:
            await self._rulebook.configure(user_config)
        except (ConfigError, PolicyConflict) as error:
            if isinstance(error, ConfigError) and not self._configured:
                raise
            self._refused = str(error)
            _LOG.error("The new policy is refused, %s stays: %s", self._router.rules.policy.version, error)
            return
        self._refused, self._configured = None, True
        # Serve sends a replica requests once this returns: one that joins others is to be ready by then.
        await asyncio.wait([self._warming], timeout=_JOIN_S)

    async def classify(
        self, data: bytes, deadline_ms: int | None = None, request_id: str | None = None, key: str | None = None
    ) -> Verdict:
        """The verdict on a file, for callers that hold a handle. Raises any error of the tree.

        key: what an A/B test keeps on one side; by default the request id.
        """
        deadline_ms = self.profile.ingress.default_deadline_ms if deadline_ms is None else deadline_ms
        if not 1 <= deadline_ms <= MAX_DEADLINE_MS:
            raise BadRequest(f"deadline_ms is {deadline_ms}; give 1 to {MAX_DEADLINE_MS}")
        for name, text, most in (("request_id", request_id, 128), ("key", key, 256)):
            if text is not None and (len(text) > most or not text.isprintable()):
                raise BadRequest(f"{name} is no printable text of at most {most} characters")
        deadline_s = time.monotonic() + deadline_ms / 1000
        with self.admission() as place:
            place.take(len(data))
            return await self.judge(data, deadline_s, request_id or uuid.uuid4().hex, RequestContext(key=key))

    async def judge(self, data: bytes, deadline_s: float, request_id: str, asked: RequestContext) -> Verdict:
        """The verdict on a file by a deadline on the clock of `time.monotonic()`.

        Before this returns it is on this machine's disk, for the journal.
        """
        self._flow.came()
        try:
            with self._router.booked(deadline_s) as booked:
                read = await self._reading.read(data, deadline_s)
            judged = await self._router.look(Item.of(read, request_id, deadline_s), asked.key, booked)
        except RoadworkError as error:
            self._refuse(error.slug)
            raise
        self._metrics.answered(judged.verdict)
        self._ledger.answered(judged.verdict)
        record_verdict(self._flow, judged.verdict, self._router.rules.policy)
        trace_stages(judged.verdict, time.time_ns())
        await self._post.keep(judged, data, asked, self._rulebook.number)
        return judged.verdict

    def foresee(self, deadline_s: float) -> None:
        """Before a body is read: raises Overloaded or DeadlineExceeded when it could not be judged in time."""
        try:
            with self._router.booked(deadline_s):
                self._reading.admit(deadline_s)
        except RoadworkError as error:
            self._flow.came()
            self._refuse(error.slug)
            raise

    @contextmanager
    def admission(self) -> Iterator[Permit]:
        """Hold one of the places for requests. Raises NotReady or Overloaded."""
        try:
            self.readiness()
            place = self._admission.enter()
        except (NotReady, Overloaded) as error:
            self._refuse(error.slug)
            raise
        self._configured = True  # it serves, so a bad policy no longer ends it
        try:
            yield place
        finally:
            place.leave()

    def readiness(self) -> Readiness:
        """Which stages are up. Raises NotReady until all that are required have been, and while none is.

        A stage that goes down later does not close the server: it is skipped and verdicts say so.
        """
        up = [name for name, client in self._clients.items() if client.up]
        down = [name for name in self._clients if name not in up]
        if not self._warmed:
            loading = [name for name, spec in self.profile.stages.items() if spec.required and name in down]
            raise NotReady(f"still loading: {', '.join(loading) or 'what reads files'}")
        if not up:
            raise NotReady("no stage answers at the moment; each is being restarted")
        return Readiness(up=up, down=down)

    def info(self) -> Info:
        """What the server is made of."""
        profile = self.profile
        return Info(
            version=version("roadwork-serve"),
            profile=profile.name,
            policy=self._router.rules.policy.to_mapping(),
            policy_error=self._refused,
            stages=[stage_info(name, profile, self._clients[name]) for name in profile.stages],
            in_flight=self._admission.admitted,
            limits=limits_of(profile),
        )

    async def put_policy(self, rules: object, by: str) -> PolicyChange:
        """Bring rules, or a policy alone, into force on every replica. Raises PolicyRefused and PolicyConflict."""
        await validate_heads(self._rulebook.checked(rules), self._clients, self.profile.media)
        return await self._spread(await self._rulebook.put(rules, by))

    async def roll_back(self, by: str) -> PolicyChange:
        """Bring back what was in force before. Raises PolicyConflict."""
        return await self._spread(await self._rulebook.roll_back(by))

    async def look(self) -> int:
        """Go by the newest rules. Returns the number of their edition. For the other replicas to call."""
        return await self._rulebook.look()

    async def policy(self) -> PolicyState:
        """What is in force, and what was before."""
        rules = self._router.rules
        return PolicyState(
            number=self._rulebook.number,
            version=rules.policy.version,
            rules=rules.to_mapping(),
            history=[policy_revision(each) for each in await self._rulebook.editions()],
        )

    async def stats(self) -> Stats:
        """The load of every replica that answers soon."""
        return Stats(replicas=[self.load(), *await self._everyone.loads()])

    def load(self) -> ReplicaStats:
        """Of this replica."""
        rules = self._router.rules
        return ReplicaStats(
            replica=self._everyone.replica,
            in_flight=self._admission.admitted,
            reading=self._reading.count,
            policy_version=rules.policy.version,
            policy_revision=self._rulebook.number,
            degradation_level=self._router.degradation_level,
            stages=[stage_load(name, self._batchers[name], self._clients[name]) for name in self.profile.stages],
            answered=self._ledger.told(),
            shadow=shadow_stats(rules, self._router.shadows),
            audit=audit_stats(rules, self._router.audits),
            journal=self._post.load(),
        )

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What is asked of every deployment that scales, for `deployments.autoscaling`. Serve asks twice a second."""
        return replica_demand(self.profile, self._flow, self._batchers)

    def _adopt(self, rules: Rollout) -> None:
        self._router.rules = rules
        asked = {step.stage for policy in rules.policies for step in policy.photo + policy.clip}
        if missing := asked - set(self._clients):
            _LOG.warning("The policy asks %s, which this profile lacks.", ", ".join(sorted(missing)))

    def _refuse(self, problem: str) -> None:
        self._metrics.refused(problem)
        self._ledger.refused(problem)

    def _shadowed(self, answered: Verdict, said: Verdict) -> None:
        """A shadow judged what had been answered: count it, and log a line to compare the two by."""
        self._metrics.shadowed(answered, said)
        _SHADOWS.info("%s", shadow_log_line(answered, said))
        self._post.shadowed(answered, said)

    async def _spread(self, edition: StoredRevision) -> PolicyChange:
        """Let all replicas look, and count those that go by the edition, or by a newer one, now."""
        numbers = await self._everyone.look() or [self._rulebook.number]
        there = sum(number >= edition.number for number in numbers)
        return PolicyChange(number=edition.number, version=edition.version, replicas=there)

    async def check_health(self) -> None:
        """Raises what ended a task in the background; Serve then replaces the process."""
        for task in (self._warming, self._watching, *self._post.tasks):
            if task.done() and not task.cancelled():
                task.result()

    async def _warm(self) -> None:
        await self._reading.ready()
        await self._rulebook.look()
        required = [self._clients[name] for name, spec in self.profile.stages.items() if spec.required]
        for client in required:
            await client.warm()
        self._warmed = True
        _LOG.info("Ready: all %d stages that are required are warm.", len(required))

    async def _watch(self) -> None:
        """Tell the metrics of the load, and see to it that a change that did not get here is found."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                self._metrics.load(self.load())
                await self._rulebook.look()
            except Exception:
                _LOG.exception("The rules in force cannot be looked up; %s stay.", self._router.rules.policy.version)

    async def aclose(self) -> None:
        """Fail what waits and end what runs in the background."""
        for task in (self._warming, self._watching):
            task.cancel()
        await self._router.aclose()
        for batcher in self._batchers.values():
            await batcher.aclose()
        for client in self._clients.values():
            await client.aclose()
        await self._reading.aclose()
        await self._post.aclose()


def ingress_app(
    profile: Profile, stages: Mapping[StageName, Application], journal: Application | None = None
) -> Application:
    """The ingress as a deployment over the stages' deployments and the journal's, if there is one."""
    count, most = profile.ingress.replicas, profile.ingress.max_per_node
    scales = any(profile.engines[name].scales for name in profile.users())
    spread: dict[str, Any] = {} if most is None else {"max_replicas_per_node": most}
    deployed = serve.deployment(
        name=INGRESS,
        # As many either way. The policy that scales the others hears of what is asked from those alone that may scale.
        num_replicas=None if scales else count,
        autoscaling_config=AutoscalingConfig(min_replicas=count, max_replicas=count) if scales else None,
        **spread,
        ray_actor_options={"num_cpus": profile.ingress.num_cpus},
        # Twice what it admits: those beyond are refused by the ingress itself, with a problem document,
        # and health checks get through.
        max_ongoing_requests=2 * profile.ingress.max_ongoing_requests,
        # In each proxy, while no replica takes them; more get Serve's own 503.
        max_queued_requests=profile.ingress.max_ongoing_requests,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_S),
        # The replica of another version takes requests before the one it replaces stops to. Where nodes take so many
        # and no more there is no place for one beside the others: then they are replaced one by one.
        max_surge_percent=100 if most is None else 0,
        health_check_period_s=2,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=profile.ingress.default_deadline_ms / 1000 + 1,
    )(serve.ingress()(Ingress))
    return deployed.bind(profile, dict(stages), journal)
