"""The deployment in front: reads the media, drives the cascade, answers over HTTP and to handles."""

import asyncio
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.client import RayStageClient
from deployments.http import http_app
from deployments.loopback import stay_on_loopback
from roadwork_serve import media
from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.load import load_policy
from roadwork_serve.cascade.opinion import Item
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.router import Router
from roadwork_serve.errors import BadRequest, ConfigError, DeadlineExceeded, NotReady, Overloaded
from roadwork_serve.profiles.profile import Profile, StageName
from roadwork_serve.schema import MAX_DEADLINE_MS, Info, Limits, Readiness, StageInfo, Verdict

_LOG = logging.getLogger("ray.serve.roadwork.ingress")
PROFILES_OWN = "profile"  # in a user_config: the policy that the profile names
_GRACE_S = 1.0  # the batchers' own timeout is a net under that of the clients


class Ingress:
    """Batchers and router over the stages' handles. Needs a running event loop."""

    def __init__(self, profile: Profile, stages: Mapping[StageName, DeploymentHandle]) -> None:
        stay_on_loopback()
        self.profile = profile
        self._clients: dict[str, RayStageClient] = {}
        self._batchers: dict[str, Batcher] = {}
        for name, handle in stages.items():
            spec, engine = profile.stages[name], profile.engine_of(name)
            client = self._clients[name] = RayStageClient(name, handle, spec.timeout_s)
            self._batchers[name] = Batcher(
                client,
                max_batch=spec.max_batch,
                slots=spec.slots * (engine.max_replicas or engine.replicas),
                max_queue=spec.max_queue,
                timeout_s=spec.timeout_s + _GRACE_S,
                name=name,
            )
        self._router = Router(self._batchers, _policy(profile.policy), profile.name)
        self._configured = False
        self._refused: str | None = None
        self._decoders = ThreadPoolExecutor(profile.ingress.decode_threads, thread_name_prefix="decode")
        self._admitted = 0
        self.held_bytes = 0
        self._warmed = False
        self._warming = asyncio.create_task(self._warm(), name="warming")

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application Serve puts behind its proxy."""
        return http_app(self, on_stop=self.aclose, name_requests=False)

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take the policy of a `user_config`: a name, a path or the mapping itself.

        It replaces the old one whole, or, when it makes no sense, not at all: a server that runs goes on with the
        policy it has and says why in `/v1/info`; one that starts refuses to, with ConfigError.
        """
        try:
            policy = _policy(_only_policy(user_config, self.profile.policy))
        except ConfigError as error:
            if not self._configured:
                raise
            self._refused = str(error)
            _LOG.error("The new policy is refused, %s stays: %s", self._router.policy.version, error)
            return
        self._router.policy, self._refused, self._configured = policy, None, True
        _LOG.info("Policy %s is in force.", policy.version)
        if missing := {step.stage for step in policy.photo + policy.clip} - set(self._clients):
            _LOG.warning("The policy asks %s, which this profile lacks.", ", ".join(sorted(missing)))

    async def classify(self, data: bytes, deadline_ms: int | None = None, request_id: str | None = None) -> Verdict:
        """The verdict on a file, for callers that hold a handle. Raises any error of the tree."""
        deadline_ms = self.profile.ingress.default_deadline_ms if deadline_ms is None else deadline_ms
        if not 1 <= deadline_ms <= MAX_DEADLINE_MS:
            raise BadRequest(f"deadline_ms is {deadline_ms}; give 1 to {MAX_DEADLINE_MS}")
        deadline_s = time.monotonic() + deadline_ms / 1000
        with self.admission() as place:
            place.take(len(data))
            return await self.judge(data, deadline_s, request_id or uuid.uuid4().hex)

    async def judge(self, data: bytes, deadline_s: float, request_id: str) -> Verdict:
        """The verdict on a file by a deadline on the clock of `time.monotonic()`."""
        late = DeadlineExceeded("the deadline passed before the file was read; allow more time")
        if deadline_s <= time.monotonic():
            raise late
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                decoded = await loop.run_in_executor(self._decoders, media.read, data, self.profile.media)
        except TimeoutError:
            raise late from None
        return await self._router.judge(Item.of(decoded, request_id, deadline_s))

    @contextmanager
    def admission(self) -> Iterator["Place"]:
        """Hold one of the places for requests. Raises NotReady or Overloaded."""
        self.readiness()
        places = self.profile.ingress.max_ongoing_requests
        if self._admitted >= places:
            raise Overloaded(f"{places} requests are in work; come back in a second")
        self._admitted += 1
        self._configured = True  # it serves, so a bad policy no longer ends it
        place = Place(self)
        try:
            yield place
        finally:
            self._admitted -= 1
            self.held_bytes -= place.bytes

    def readiness(self) -> Readiness:
        """Which stages are up. Raises NotReady until all have been, and while none is.

        A stage that goes down later does not close the server: it is skipped and verdicts say so.
        """
        up = [name for name, client in self._clients.items() if client.up]
        down = [name for name in self._clients if name not in up]
        if not self._warmed:
            raise NotReady(f"still loading: {', '.join(down or self._clients)}")
        if not up:
            raise NotReady("no stage answers at the moment; each is being restarted")
        return Readiness(up=up, down=down)

    def info(self) -> Info:
        """What the server is made of."""
        limits, ingress = self.profile.media, self.profile.ingress
        return Info(
            version=version("roadwork-serve"),
            profile=self.profile.name,
            policy=self._router.policy.to_mapping(),
            policy_refused=self._refused,
            stages=[self._stage_info(name) for name in self.profile.stages],
            in_work=self._admitted,
            limits=Limits(
                max_bytes=limits.max_bytes,
                max_pixels=limits.max_pixels,
                max_seconds=limits.max_seconds,
                max_clip_frames=limits.max_clip_frames,
                max_batch_files=ingress.max_batch_files,
                max_batch_bytes=ingress.max_batch_bytes,
                max_deadline_ms=MAX_DEADLINE_MS,
                default_deadline_ms=ingress.default_deadline_ms,
            ),
        )

    def _stage_info(self, name: StageName) -> StageInfo:
        engine = self.profile.engine_of(name)
        return StageInfo(stage=name, model=engine.model, miniature=engine.miniature, up=self._clients[name].up)

    async def _warm(self) -> None:
        for client in self._clients.values():
            await client.warm()
        self._warmed = True
        _LOG.info("Ready: all %d stages are warm.", len(self._clients))

    async def aclose(self) -> None:
        """Fail what waits and end what runs in the background."""
        self._warming.cancel()
        for batcher in self._batchers.values():
            await batcher.aclose()
        for client in self._clients.values():
            await client.aclose()
        self._decoders.shutdown(wait=False, cancel_futures=True)


class Place:
    """What a request in work holds of an ingress: one place, and the bytes it has sent."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress
        self.bytes = 0

    def take(self, size: int) -> None:
        """Hold so many bytes more until the request is done. Raises Overloaded when all together hold too many."""
        most = self._ingress.profile.ingress.max_bytes_in_work
        if self._ingress.held_bytes + size > most:
            raise Overloaded(f"requests in work hold {most:,} bytes of media; come back in a second")
        self.bytes += size
        self._ingress.held_bytes += size


def ingress_app(profile: Profile, stages: Mapping[StageName, Application]) -> Application:
    """The ingress as a deployment over the stages' deployments."""
    deployed = serve.deployment(
        name="Ingress",
        num_replicas=profile.ingress.replicas,
        ray_actor_options={"num_cpus": profile.ingress.num_cpus},
        # Twice what it admits: those beyond are refused by the ingress itself, with a problem document,
        # and health checks get through.
        max_ongoing_requests=2 * profile.ingress.max_ongoing_requests,
        health_check_period_s=2,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=10,
    )(serve.ingress()(Ingress))
    return deployed.bind(profile, dict(stages))


def _policy(source: object) -> Policy:
    return load_policy(source) if isinstance(source, str) else Policy.from_mapping(source)


def _only_policy(user_config: Mapping[str, Any], default: str) -> object:
    if unknown := set(user_config) - {"policy"}:
        raise ConfigError(f"user_config: unknown entry {sorted(unknown)[0]!r}; it holds `policy` and nothing else")
    wanted = user_config.get("policy", PROFILES_OWN)
    return default if wanted == PROFILES_OWN else wanted
