"""The whole cascade in one process: the router of the server, with stages opened here instead of in Ray."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from roadwork_serve import media
from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.prediction import Item, Page
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.cascade.router import Router
from roadwork_serve.engines.gpu_lock import gpu_load_lock
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.schema import Verdict
from roadwork_serve.stages.load import Opener, open_stages

_CALL_TIMEOUT_S = 3600.0  # nothing here restarts a stage, so a slow call may take its time


@dataclass(frozen=True, slots=True)
class LocalCascade:
    """A router and its stages."""

    router: Router
    #: By name, for direct access to a stage.
    stages: Mapping[str, Batcher]
    profile: Profile

    @property
    def policy(self) -> Policy:
        """The active policy."""
        return self.router.rollout.policy

    async def classify(self, data: bytes, deadline_ms: int | None = None) -> Verdict:
        """Classify an encoded photo or clip. Without a deadline the profile's default applies.

        Raises:
            RoadworkError: The file is invalid, no stage returned a prediction, or the deadline passed.
        """
        deadline_s = time.monotonic() + (deadline_ms or self.profile.ingress.default_deadline_ms) / 1000
        return await self.router.classify_item(await read_item(data, self.profile.media, uuid.uuid4().hex, deadline_s))


async def read_item(data: bytes, limits: MediaLimits, request_id: str, deadline_s: float) -> Item:
    """Decode a file on a thread of this process, and return its item. Raises the errors of `media.read`."""
    decoded = await asyncio.to_thread(media.read, data, limits)
    return Item.of(decoded, request_id, deadline_s, Page(lambda _: asyncio.to_thread(media.page, data, limits)))


@asynccontextmanager
async def local_cascade(profile: Profile, policy: Policy, opener: Opener | None = None) -> AsyncIterator[LocalCascade]:
    """Open and warm up every stage that the policy names; close them at the end.

    Args:
        profile: The models and their settings.
        policy: The policy to follow.
        opener: Opens an engine and returns the stages that use it; by default `stages.load.open_stages`.

    Raises:
        ModelError: A model cannot be loaded.
    """
    named = {step.stage for step in (*policy.photo, *policy.clip)}
    async with AsyncExitStack() as closing:
        batchers: dict[str, Batcher] = {}
        for engine, users in profile.users().items():
            wanted = {name: spec for name, spec in users.items() if name in named}
            if not wanted:
                continue
            with gpu_load_lock(profile.engines[engine]):
                stages = await asyncio.to_thread(opener or open_stages, profile.engines[engine], wanted)
                for stage in stages.values():
                    closing.push_async_callback(stage.aclose)
                    await stage.warm()
            for name, stage in stages.items():
                batchers[name] = Batcher(
                    stage,
                    max_batch=wanted[name].max_batch,
                    slots=1,
                    max_queue=wanted[name].max_queue,
                    timeout_s=_CALL_TIMEOUT_S,
                    name=name,
                )
                closing.push_async_callback(batchers[name].aclose)
        yield LocalCascade(Router(batchers, Rollout(policy=policy), profile.name, task=profile.task), batchers, profile)
