"""The whole cascade in this process: the same router, over stages opened here instead of in Ray."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.cascade.router import Router
from roadwork_serve.engines.gpu_lock import exclusive_gpu_load
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.stages.load import Opener, open_stages

_CALL_TIMEOUT_S = 3600.0  # nothing here is restarted, so a slow call is waited for


@dataclass(frozen=True, slots=True)
class LocalCascade:
    """A router and, by name, the batchers of its stages, for whoever wants to ask one directly."""

    router: Router
    stages: Mapping[str, Batcher]
    profile: Profile

    @property
    def policy(self) -> Policy:
        return self.router.rules.policy


@asynccontextmanager
async def local_cascade(profile: Profile, policy: Policy, opener: Opener | None = None) -> AsyncIterator[LocalCascade]:
    """Open and warm every stage that the policy names; close them at the end.

    opener: opens an engine and makes the stages that ask it; by default `stages.load.open_stages`.
    Raises ModelError where a model cannot be loaded.
    """
    named = {step.stage for step in (*policy.photo, *policy.clip)}
    async with AsyncExitStack() as closing:
        batchers: dict[str, Batcher] = {}
        for engine, users in profile.users().items():
            wanted = {name: spec for name, spec in users.items() if name in named}
            if not wanted:
                continue
            with exclusive_gpu_load(profile.engines[engine].device):
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
        yield LocalCascade(Router(batchers, Rollout(policy), profile.name), batchers, profile)
