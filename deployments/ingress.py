"""The ingress deployment: decodes media, runs the cascade, and answers over HTTP and to handles."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.handle import DeploymentHandle

from deployments.journal_client import JournalClient
from deployments.journal_outbox import JournalOutbox, NullOutbox
from deployments.load_progress import LoadProgress
from deployments.loopback import stay_on_loopback
from deployments.metrics import IngressMetrics
from deployments.replica_group import ReplicaGroup
from deployments.replica_logs import configure_logs
from deployments.revision_log import open_revision_log
from deployments.stage_client import RayStageClient
from roadwork_serve.api.admission import Admission, ByteReservation
from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.api.demand_report import DemandObserver, replica_demand, slots_per_replica
from roadwork_serve.api.deployment_names import INGRESS
from roadwork_serve.api.job_routes import job_routes
from roadwork_serve.api.jobs import JobService
from roadwork_serve.api.journal_routes import journal_routes
from roadwork_serve.api.media_decoder import MediaDecoder
from roadwork_serve.api.observers import ObserverList, VerdictEvent
from roadwork_serve.api.policy_admin import PolicyAdmin
from roadwork_serve.api.policy_routes import policy_routes
from roadwork_serve.api.policy_store import PolicyStore
from roadwork_serve.api.problem_details import RETRY_AFTER_S
from roadwork_serve.api.request_context import RequestContext
from roadwork_serve.api.stats import RequestStatsCollector
from roadwork_serve.api.status import ShadowLog, Status
from roadwork_serve.api.thumbnail import ThumbnailMaker
from roadwork_serve.api.tracing import Tracing
from roadwork_serve.autoscaling.arrivals import ArrivalStats
from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.policy_file import load_rollout
from roadwork_serve.cascade.prediction import Item, Page
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.cascade.router import Router
from roadwork_serve.errors import BadRequest, ConfigError, NotReady, Overloaded, PolicyConflict, RoadworkError
from roadwork_serve.profiles.flops import profile_flops, verdict_costs
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.schema import MAX_DEADLINE_MS, ReplicaStats, Verdict
from roadwork_serve.state_folder import keep_private

_LOG = logging.getLogger("ray.serve.roadwork.ingress")
_REFRESH_INTERVAL_S = 1.0  # for policies that other replicas activated
_JOIN_S = 3.0
_PROBED_S = 60.0  # time after the last item in which a stage that may scale to zero is probed
_GRACE_S = 1.0  # the timeout of a batcher is a fallback for that of its client


class Ingress:
    """Batchers and router over the handles of the stages. Needs a running event loop."""

    def __init__(
        self,
        profile: Profile,
        stages: Mapping[StageName, DeploymentHandle],
        journal: DeploymentHandle | None = None,
    ) -> None:
        stay_on_loopback()
        keep_private()
        configure_logs()
        self.profile = profile
        self._clients: dict[str, RayStageClient] = {}
        self._batchers: dict[str, Batcher] = {}
        for name, handle in stages.items():
            spec, engine = profile.stages[name], profile.engine_of(name)
            probed_s = _PROBED_S if engine.scale_to_zero else None
            client = self._clients[name] = RayStageClient(name, handle, spec.timeout_s, idle_after_s=probed_s)
            self._batchers[name] = Batcher(
                client,
                max_batch=spec.max_batch,
                slots=spec.slots * (engine.max_replicas or engine.replicas),
                max_queue=spec.max_queue,
                timeout_s=spec.timeout_s + _GRACE_S,
                name=name,
            )
        self._gpus = {name: profile.engine_of(name).num_gpus for name in profile.stages}
        self._prices = profile_flops(profile)
        self._metrics = IngressMetrics(profile)
        self._arrivals = ArrivalStats(slots_per_replica(profile))
        requests = RequestStatsCollector(profile, time.monotonic)
        peers = ReplicaGroup()
        self._outbox = NullOutbox() if journal is None else JournalOutbox(profile.journal, journal, peers.replica)
        self._observers = ObserverList(  # the outbox last: a record is on disk just before its verdict is returned
            [self._metrics, requests, DemandObserver(self._arrivals), Tracing(), ShadowLog(), self._outbox]
        )
        self._router = Router(
            self._batchers,
            load_rollout({}, profile.policy),
            profile.name,
            self._observers.on_shadow,
            self._observers.on_audit,
            profile.task,
        )
        self._policies = PolicyStore(open_revision_log(peers.app), profile, self._activate)
        self._journal = JournalClient(journal)
        self._configured = False
        self._decoder = MediaDecoder(profile)
        self._admission = Admission(profile.ingress.max_ongoing_requests, profile.ingress.max_in_flight_bytes)
        self.policy_admin = PolicyAdmin(self._policies, self._active, peers, self._clients, profile.media)
        self.status = Status(
            profile,
            self._clients,
            self._batchers,
            self._router,
            self._policies,
            self._admission,
            self._decoder,
            requests,
            self._outbox.load,
            peers,
            LoadProgress(profile),
        )
        self._jobs = JobService(self)
        self._warming = asyncio.create_task(self._warm(), name="warm up")
        self._watching = asyncio.create_task(self._watch(), name="refresh policy")

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application that Serve puts behind its proxy."""
        auth = Authenticator.of(self.profile.ingress)
        app = http_app(self, auth, on_stop=self.aclose, name_requests=False)
        thumbnails = ThumbnailMaker(self._decoder.read)
        journal = journal_routes(self._journal, self._active, self._policies.check, auth, thumbnails.make)
        for routes in (*policy_routes(self.policy_admin, auth), journal):
            app.include_router(routes)
        if self.profile.jobs.enabled:
            app.include_router(job_routes(self._jobs, self.profile.jobs, auth))
        return app

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Apply the rollout of a `user_config`: a policy by name, by path or in full, maybe with a split and a shadow.

        The update is atomic. An invalid config raises ConfigError at startup; on a running server it is ignored and
        reported in `/v1/info`.
        """
        try:
            await self._policies.configure(user_config)
        except (ConfigError, PolicyConflict) as error:
            if isinstance(error, ConfigError) and not self._configured:
                raise
            self.status.policy_error = str(error)
            _LOG.error("The new policy is rejected, %s stays active: %s", self._active().policy.version, error)
            return
        self.status.policy_error, self._configured = None, True
        # Serve sends a replica requests once this returns: one that joins others should be ready by then.
        await asyncio.wait([self._warming], timeout=_JOIN_S)

    async def classify(
        self, data: bytes, deadline_ms: int | None = None, request_id: str | None = None, key: str | None = None
    ) -> Verdict:
        """Return the verdict on a file, for callers with a handle. Raises any error of the tree.

        Args:
            data: The encoded file.
            deadline_ms: Deadline in milliseconds; by default the profile's.
            request_id: Id of the request; by default a new one.
            key: Group of the request, which an A/B test assigns to one arm; by default the request id.
        """
        deadline_ms = self.profile.ingress.default_deadline_ms if deadline_ms is None else deadline_ms
        if not 1 <= deadline_ms <= MAX_DEADLINE_MS:
            raise BadRequest(f"deadline_ms is {deadline_ms}; give 1 to {MAX_DEADLINE_MS}")
        for name, text, longest in (("request_id", request_id, 128), ("key", key, 256)):
            if text is not None and (len(text) > longest or not text.isprintable()):
                raise BadRequest(f"{name} is not a printable text of at most {longest} characters")
        deadline_s = time.monotonic() + deadline_ms / 1000
        with self.receiving() as held, self.admission():
            held.reserve_bytes(len(data))
            return await self.classify_media(data, deadline_s, request_id or uuid.uuid4().hex, RequestContext(key=key))

    async def classify_media(self, data: bytes, deadline_s: float, request_id: str, context: RequestContext) -> Verdict:
        """Return the verdict on a file, by a deadline on the clock of `time.monotonic()`.

        When this returns, the record for the journal is on the local disk.
        """
        self._observers.on_arrival()
        try:
            with self._router.reserve(deadline_s) as reserved:
                media = await self._decoder.read(data, deadline_s)
            item = Item.of(media, request_id, deadline_s, Page(partial(self._decoder.page, data)))
            routed = await self._router.classify(item, context.key, reserved)
        except RoadworkError as error:
            self._observers.on_rejected(error.slug)
            raise
        costs = verdict_costs(routed.verdict, self._gpus, self._prices)
        policy, revision = self._active().policy, self._policies.revision
        await self._observers.on_verdict(VerdictEvent(routed, data, context, policy, revision, costs))
        return routed.verdict

    def check_feasible(self, deadline_s: float) -> None:
        """Raise Overloaded or DeadlineExceeded, before the body is read, if a file could not be classified in time."""
        try:
            with self._router.reserve(deadline_s):
                self._decoder.check_feasible(deadline_s)
        except RoadworkError as error:
            self._observers.on_arrival()
            self._observers.on_rejected(error.slug)
            raise

    @contextmanager
    def receiving(self) -> Iterator[ByteReservation]:
        """Hold the bytes of a request until it ends. Raises NotReady, or Overloaded if it could not be admitted now."""
        self._or_rejected(self._admission.check)
        with self._admission.reservation() as held:
            yield held

    @contextmanager
    def admission(self) -> Iterator[None]:
        """Admit a request whose body is complete. Raises NotReady or Overloaded."""
        self._or_rejected(self._admission.enter)
        self._configured = True  # it serves, so an invalid policy no longer ends it
        try:
            yield
        finally:
            self._admission.leave()

    def _or_rejected(self, admit: Callable[[], None]) -> None:
        try:
            self.status.check_ready()
            admit()
        except (NotReady, Overloaded) as error:
            self._observers.on_rejected(error.slug)
            raise

    def load(self) -> ReplicaStats:
        """Return the load of this replica. Other replicas call it, see `ReplicaGroup`."""
        return self.status.load()

    async def refresh_policy(self) -> int:
        """Activate the newest policy and return its revision. Other replicas call it, see `ReplicaGroup`."""
        return await self.policy_admin.refresh()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the demand on every deployment that scales. Serve calls it twice a second; see `autoscaling`."""
        return replica_demand(self.profile, self._arrivals, self._batchers)

    def _active(self) -> Rollout:
        return self._router.rollout

    def _activate(self, rollout: Rollout) -> None:
        self._router.rollout = rollout
        used = {step.stage for policy in rollout.policies for step in policy.photo + policy.clip}
        if missing := used - set(self._clients):
            _LOG.warning("The policy uses %s, which this profile lacks.", ", ".join(sorted(missing)))

    async def check_health(self) -> None:
        """Raise the error that ended a background task; Serve then replaces the process."""
        for task in (self._warming, self._watching, *self._outbox.tasks):
            if task.done() and not task.cancelled():
                task.result()

    async def _warm(self) -> None:
        self._jobs.start()
        await self._decoder.ready()
        await self._policies.refresh()
        required = [self._clients[name] for name, spec in self.profile.stages.items() if spec.required]
        for client in required:
            await client.warm()
        self.status.warmed = True
        _LOG.info("Ready: all %d required stages are warm.", len(required))

    async def _watch(self) -> None:
        """Report the load to the metrics, and pick up policies whose activation did not reach this replica."""
        while True:
            await asyncio.sleep(_REFRESH_INTERVAL_S)
            try:
                self._metrics.report_load(self.load())
                await self._policies.refresh()
            except Exception:
                _LOG.exception("The policy cannot be refreshed; %s stays active.", self._active().policy.version)

    async def aclose(self) -> None:
        """Fail the items in the queues and end the background tasks."""
        for task in (self._warming, self._watching):
            task.cancel()
        await self._jobs.aclose()
        await self._router.aclose()
        for batcher in self._batchers.values():
            await batcher.aclose()
        for client in self._clients.values():
            await client.aclose()
        await self._decoder.aclose()
        await self._outbox.aclose()


def ingress_app(
    profile: Profile, stages: Mapping[StageName, Application], journal: Application | None = None
) -> Application:
    """Return the ingress as a deployment over the deployments of the stages, and of the journal if there is one."""
    count, per_node = profile.ingress.replicas, profile.ingress.max_per_node
    scales = any(profile.engines[name].scales for name in profile.users())
    placement: dict[str, Any] = {} if per_node is None else {"max_replicas_per_node": per_node}
    deployed = serve.deployment(
        name=INGRESS,
        # The same number either way. Serve calls record_autoscaling_stats only on deployments that autoscale.
        num_replicas=None if scales else count,
        autoscaling_config=AutoscalingConfig(min_replicas=count, max_replicas=count) if scales else None,
        **placement,
        ray_actor_options={"num_cpus": profile.ingress.num_cpus},
        # As many bodies may be arriving as requests in flight. The ingress itself rejects what is above these limits,
        # with a problem document, and health checks get through.
        max_ongoing_requests=3 * profile.ingress.max_ongoing_requests,
        # In each proxy, while no replica accepts requests; more get Serve's own 503.
        max_queued_requests=profile.ingress.max_ongoing_requests,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_S),
        # A replica of a new version accepts requests before the old one stops. With a limit per node there may be no
        # room for both: then they are replaced one by one.
        max_surge_percent=100 if per_node is None else 0,
        health_check_period_s=2,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=profile.ingress.default_deadline_ms / 1000 + 1,
    )(serve.ingress()(Ingress))
    return deployed.bind(profile, dict(stages), journal)
