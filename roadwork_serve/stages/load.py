"""Opens an engine and the stages that use it."""

from collections.abc import Callable, Mapping

from roadwork_serve.cascade.prediction import BlockingStage, Stage
from roadwork_serve.cascade.threaded_stage import ThreadedStage
from roadwork_serve.engines.registry import Workload, open_language_engine
from roadwork_serve.profiles.profile import ROLES, EngineSpec, StageName, StageSpec
from roadwork_serve.stages.health import STUCK_TIMEOUTS

Opener = Callable[[EngineSpec, Mapping[StageName, StageSpec]], Mapping[StageName, Stage]]


def open_stages(engine: EngineSpec, users: Mapping[StageName, StageSpec]) -> Mapping[StageName, Stage]:
    """Load an engine's model and return the stages that use it.

    Args:
        engine: The engine of a profile.
        users: The stages of one role that use it, by name.

    Raises:
        ConfigError: The backend cannot run these stages.
        ModelError: The model cannot be loaded.
    """
    (role,) = {ROLES[name] for name in users}
    if role == "language":
        return _language_stages(engine, users)
    return {name: ThreadedStage(_blocking_stage(name, spec, engine)) for name, spec in users.items()}


def _blocking_stage(name: StageName, spec: StageSpec, model: EngineSpec) -> BlockingStage:
    if name == "backbone":
        from roadwork_serve.stages.backbone import Backbone

        return Backbone(spec, model)
    from roadwork_serve.stages.signs import Signs

    return Signs(spec, model)


def _language_stages(model: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, Stage]:
    from roadwork_serve.stages.video import Video
    from roadwork_serve.stages.vlm import Vlm

    timeout_s = max(spec.timeout_s for spec in users.values())
    workload = Workload(
        photos=any(name != "video" for name in users),
        clips="video" in users,
        concurrency=sum(spec.max_batch * spec.slots for spec in users.values()),
        timeout_s=timeout_s,
        stuck_s=STUCK_TIMEOUTS * timeout_s,
    )
    engine = open_language_engine(model, workload)
    return {name: (Video if name == "video" else Vlm)(name, spec, model, engine) for name, spec in users.items()}
