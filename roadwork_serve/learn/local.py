"""The whole cascade in this process: the same router, over stages opened here instead of in Ray."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.local import LocalClient
from roadwork_serve.cascade.opinion import Stage
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.router import Router
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.load import load_policy_mapping
from roadwork_serve.profiles.profile import Profile, StageSpec

OpenStage = Callable[[str, StageSpec], Stage]
_CALL_TIMEOUT_S = 3600.0  # nothing here is restarted, so a slow call is waited for


@dataclass(frozen=True, slots=True)
class LocalCascade:
    """A router and, by name, the batchers of its stages, for whoever wants to ask one directly."""

    router: Router
    stages: Mapping[str, Batcher]
    profile: Profile

    @property
    def policy(self) -> Policy:
        return self.router.policy


def load_policy(name_or_path: str | Path) -> Policy:
    """The policy of that name or in that file. Raises ConfigError naming the file and the line to mend."""
    try:
        return Policy.from_mapping(load_policy_mapping(name_or_path))
    except ConfigError as error:
        raise ConfigError(f"policy {name_or_path}: {error}") from None


@asynccontextmanager
async def local_cascade(
    profile: Profile, policy: Policy, open_stage: OpenStage | None = None
) -> AsyncIterator[LocalCascade]:
    """Open and warm every stage that the policy names; close them at the end.

    open_stage: how to open one; by default `stages.load.open_stage`. Raises ModelError where a
    model cannot be loaded.
    """
    if open_stage is None:
        from roadwork_serve.stages.load import open_stage as opener  # imports engines
    else:
        opener = open_stage
    named = {step.stage for step in (*policy.photo, *policy.clip)}
    async with AsyncExitStack() as closing:
        stages: dict[str, Batcher] = {}
        for name, spec in profile.stages.items():
            if name in named:
                stage = await asyncio.to_thread(_opened, opener, name, spec)
                client = LocalClient(stage)
                closing.push_async_callback(client.aclose)
                stages[name] = Batcher(
                    client,
                    max_batch=spec.max_batch,
                    slots=1,
                    max_queue=spec.max_queue,
                    timeout_s=_CALL_TIMEOUT_S,
                    name=name,
                )
                closing.push_async_callback(stages[name].aclose)
        yield LocalCascade(Router(stages, policy, profile.name), stages, profile)


def _opened(open_stage: OpenStage, name: str, spec: StageSpec) -> Stage:
    stage = open_stage(name, spec)
    stage.warm()
    return stage
