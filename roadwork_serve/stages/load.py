"""Opens an engine and the stages that ask it, importing only what they need."""

from collections.abc import Callable, Mapping

from roadwork_serve.cascade.prediction import BlockingStage, Stage
from roadwork_serve.cascade.threaded_stage import ThreadedStage
from roadwork_serve.engines.vlm import LanguageEngine
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.profile import ROLES, EngineSpec, StageName, StageSpec
from roadwork_serve.stages.health import STUCK

Opener = Callable[[EngineSpec, Mapping[StageName, StageSpec]], Mapping[StageName, Stage]]


def open_stages(engine: EngineSpec, users: Mapping[StageName, StageSpec]) -> Mapping[StageName, Stage]:
    """The stages, over one engine with its model loaded.

    users: stages of one role, by name. Raises ConfigError when the engine cannot do what they ask of it, ModelError
    when its model cannot be loaded.
    """
    (role,) = {ROLES[name] for name in users}
    if role == "language":
        return _language_stages(engine, users)
    return {name: ThreadedStage(_blocking(name, spec, engine)) for name, spec in users.items()}


def _blocking(name: StageName, spec: StageSpec, engine: EngineSpec) -> BlockingStage:
    if name == "backbone":
        from roadwork_serve.stages.backbone import Backbone

        return Backbone(spec, engine)
    from roadwork_serve.stages.signs import Signs

    return Signs(spec, engine)


def _language_stages(engine: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, Stage]:
    from roadwork_serve.stages.video import Video
    from roadwork_serve.stages.vlm import Vlm

    opened = _language_engine(engine, users)
    return {name: (Video if name == "video" else Vlm)(name, spec, engine, opened) for name, spec in users.items()}


def _language_engine(engine: EngineSpec, users: Mapping[StageName, StageSpec]) -> LanguageEngine:
    match engine.runs:
        case "transformers":
            from roadwork_serve.engines.transformers import VisionLanguageEngine

            return VisionLanguageEngine(
                weights_folder(engine.model),
                dtype=engine.dtype,
                device=engine.device,
                threads=engine.threads,
                max_pixels=engine.language.max_pixels,
                trust_remote_code=engine.trust_remote_code,
                revision=engine.revision,
                gpu_memory_gib=engine.gpu_memory_gib,
            )
        case "vllm":
            from roadwork_serve.engines.vllm import VllmEngine

            return VllmEngine(
                engine.model_copy(update={"model": weights_folder(engine.model)}),
                photos=any(name != "video" for name in users),
                clips="video" in users,
                concurrency=sum(spec.max_batch * spec.slots for spec in users.values()),
                stuck_s=STUCK * max(spec.timeout_s for spec in users.values()),
            )
        case "openai":
            from roadwork_serve.engines.openai import OpenAiEngine

            return OpenAiEngine(engine, timeout_s=max(spec.timeout_s for spec in users.values()))
        case _:
            raise ConfigError(
                f"stages {', '.join(users)}: {engine.runs} runs no language model; use transformers, vllm or openai"
            )
