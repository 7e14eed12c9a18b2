"""A profile: which models run, on which backend, and on what hardware. Typed, described and validated as a whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.ingress_spec import IngressSpec
from roadwork_serve.profiles.jobs import JobSpec
from roadwork_serve.profiles.journal import JournalSpec
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.profiles.settings import Settings
from roadwork_serve.profiles.stage_kinds import BACKENDS, Role, StageName, role_of, stage_names
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.profiles.task import Task, default_task, parse_task
from roadwork_serve.validation import rule_error


class Profile(Settings):
    """Everything that differs between a laptop and a server with two GPUs."""

    name: str = Field(description="Name of the profile.")
    description: str = Field(default="", description="One line about the models and the hardware.")
    policy: str = Field(description="Name of a policy in the package, or the path of one.")
    gpus_gib: tuple[float, ...] = Field(
        default=(),
        description="Memory of each GPU this profile is made for, in GiB as CUDA reports it. Used by `roadwork plan`.",
    )
    task: Task = Field(
        default_factory=default_task,
        description="What the server decides: the name of a task that ships with the project, the path of a task "
        "file, or its fields here, where `extends` may name a task to start from.",
    )
    media: MediaLimits = Field(default=MediaLimits(), description="Limits on photos and clips.")
    ingress: IngressSpec = Field(default=IngressSpec(), description="Settings of the HTTP deployment.")
    journal: JournalSpec = Field(default=JournalSpec(), description="Settings of the journal of verdicts.")
    jobs: JobSpec = Field(default=JobSpec(), description="Settings of jobs, for clips too long for a request.")
    engines: dict[str, EngineSpec] = Field(description="The engines by name.")
    stages: dict[StageName, StageSpec] = Field(description="The stages of the cascade by name.")

    @field_validator("task", mode="before")
    @classmethod
    def _parse_task(cls, task: object) -> Task:
        try:
            return parse_task(task)
        except ConfigError as error:
            raise rule_error(str(error).removeprefix("task: ")) from None

    @model_validator(mode="after")
    def _validate(self) -> Self:
        self._check_stages()
        self._check_engines()
        self._check_time_slices()
        self._check_named_gpus()
        self._configure_thumbnails()
        for name, spec in self.stages.items():
            self.stages[name] = spec.model_copy(update={"task": self.task})
        return self

    def _check_stages(self) -> None:
        if not self.stages:
            raise ValueError(f"stages is empty; add at least one of {', '.join(stage_names())}, and the engine it uses")
        if not any(spec.required for spec in self.stages.values()):
            raise ValueError(
                f"stages.{next(iter(self.stages))}.required: no stage is required, so the server would be ready with "
                "no stage to query; set required: true in at least one"
            )
        for name, spec in self.stages.items():
            if spec.engine not in self.engines:
                raise ValueError(
                    f"stages.{name}.engine: there is no engine {spec.engine!r}; add it to engines, or name one of "
                    f"{', '.join(self.engines) or 'those you add'}"
                )

    def _check_engines(self) -> None:
        for name, users in self.users().items():
            if len({_role(stage) for stage in users}) > 1:
                raise ValueError(
                    f"engines.{name} is used by {', '.join(users)}, which need different kinds of engines; give "
                    f"{list(users)[-1]} an engine of its own"
                )
            backend, supported = self.engines[name].backend, BACKENDS[_role(next(iter(users)))]
            if backend not in supported:
                raise ValueError(
                    f"engines.{name}.backend: {backend} cannot run {', '.join(users)}; use " + " or ".join(supported)
                )

            if self.engines[name].vllm.score_head:
                for stage, spec in users.items():
                    if spec.options.get("thinking"):
                        raise ValueError(
                            f"engines.{name}.vllm.score_head: an engine with a score head generates no text, and "
                            f"stages.{stage} thinks; give {stage} an engine of its own, or remove score_head"
                        )

    def _check_time_slices(self) -> None:
        for group, names in self._groups("time_slice_group").items():
            if other := next((name for name in names if _role(next(iter(self.users()[name]))) != "language"), None):
                raise ValueError(f"engines.{other}.time_slice_group: only language models can sleep; remove it")
            if len(names) == 1:
                raise ValueError(
                    f"engines.{names[0]}.time_slice_group: no other engine is in the group {group!r}; remove it"
                )
            for field in ("gpu", "gpu_memory_gib", "num_gpus"):
                if len({getattr(self.engines[name], field) for name in names}) > 1:
                    raise ValueError(
                        f"engines {', '.join(names)} share the time_slice_group {group!r}; give all the same {field}"
                    )

    def _check_named_gpus(self) -> None:
        """Check that all engines on a GPU name one, or none: Ray does not know the load of a GPU that is named."""
        named = {name: self.engines[name].gpu for name in self.users() if self.engines[name].device == "cuda"}
        if self.names_gpus and None in named.values():
            missing = next(name for name, gpu in named.items() if gpu is None)
            other = next(name for name, gpu in named.items() if gpu is not None)
            raise ValueError(
                f"engines.{missing}.gpu is not set, and engines.{other} names its GPU; name one in every engine on a "
                "GPU, or in none"
            )

    def _configure_thumbnails(self) -> None:
        """Set the size and number of thumbnails in the engine of stage 1, for which it compiles and warms up."""
        if "backbone" not in self.stages:
            return
        stage, side = self.stages["backbone"], self.media.thumb_side
        engine = self.engines[stage.engine]
        if engine.features.side not in (None, side):
            raise ValueError(
                f"engines.{stage.engine}.features.side is {engine.features.side}, and media.thumb_side is {side}; "
                "leave features.side out"
            )
        most = min(64 if engine.device == "cuda" else 16, stage.max_batch * self.media.frames)
        update: dict[str, Any] = {"side": side, "max_thumbs": engine.features.max_thumbs or most}
        if not engine.model.endswith((".onnx", ".engine", ".plan")):  # an exported file returns logits alone
            update["keep_features"] = self.journal.enabled and self.journal.features
        self.engines[stage.engine] = engine.model_copy(update={"features": engine.features.model_copy(update=update)})

    def engine_of(self, stage: StageName) -> EngineSpec:
        """Return the engine that a stage uses."""
        return self.engines[self.stages[stage].engine]

    @property
    def names_gpus(self) -> bool:
        """True if the engines name the GPUs they run on."""
        return any(self.engines[name].gpu is not None for name in self.users())

    def with_gpus(self, gpus: Mapping[str, int | None]) -> "Profile":
        """Return the profile with these engines on these GPUs; with None, Ray chooses the GPU."""
        engines = {
            name: engine.model_copy(update={"gpu": gpus[name]}) if name in gpus else engine
            for name, engine in self.engines.items()
        }
        return self.model_copy(update={"engines": engines})

    def with_policy_heads(self, folder: Path) -> "Profile":
        """Return the profile with this folder of the heads that policies may name."""
        name = self.stages["backbone"].engine
        engine = self.engines[name]
        features = engine.features.model_copy(update={"policy_heads": str(folder)})
        return self.model_copy(
            update={"engines": {**self.engines, name: engine.model_copy(update={"features": features})}}
        )

    def users(self) -> dict[str, dict[StageName, StageSpec]]:
        """Return the stages by the engine they use. Engines that no stage uses are left out and never started."""
        found: dict[str, dict[StageName, StageSpec]] = {}
        for stage, spec in self.stages.items():
            found.setdefault(spec.engine, {})[stage] = spec
        return found

    def processes(self) -> list[tuple[str, ...]]:
        """Return the engines of each process: one, or all of a time_slice_group, or all that name the same process."""
        groups = (*self._groups("time_slice_group").values(), *self._groups("process").values())
        members = {name: names for names in groups for name in names}
        return list(dict.fromkeys(members.get(name, (name,)) for name in self.users()))

    def _groups(self, field: Literal["time_slice_group", "process"]) -> dict[str, tuple[str, ...]]:
        """Return the engines in use by their value of a field, without those that leave it out."""
        found: dict[str, tuple[str, ...]] = {}
        for name in self.users():
            if (group := getattr(self.engines[name], field)) is not None:
                found[group] = (*found.get(group, ()), name)
        return found


def _role(stage: StageName) -> Role:
    """Return the kind of engine that a stage needs, with an error that names the profile's field."""
    try:
        return role_of(stage)
    except ConfigError as error:
        raise ValueError(f"stages.{stage}: {error}") from None
