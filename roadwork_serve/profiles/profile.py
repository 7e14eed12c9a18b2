"""A profile: which models run, how, and on what. Typed, described, validated as a whole."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

STAGES = ("backbone", "signs", "vlm", "reasoner", "video")
StageName = Literal["backbone", "signs", "vlm", "reasoner", "video"]
Role = Literal["features", "reader", "language"]
ROLES: dict[StageName, Role] = {
    "backbone": "features",
    "signs": "reader",
    "vlm": "language",
    "reasoner": "language",
    "video": "language",
}  # what a stage asks of its engine


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Runs = Literal["transformers", "rapidocr", "onnx"]


class FeatureSettings(_Settings):
    """Of a backbone."""

    head: str | None = Field(default=None, description="folder with head.json, when it is not beside the weights")


class ReaderSettings(_Settings):
    """Of a sign reader."""

    side: int = Field(default=736, ge=64, description="text is looked for at this longer side, pixels")


class LanguageSettings(_Settings):
    """Of a vision language model."""

    max_pixels: int | None = Field(default=None, ge=1024, description="of an image as the model sees it")
    context_tokens: int = Field(
        default=2048, ge=256, description="longest prompt with its thought and answer; what the planner makes room for"
    )


class EngineSpec(_Settings):
    """A model, what runs it, and its share of the machine. Stages that name the same engine share one process."""

    runs: Runs = Field(description="what runs the model")
    model: str = Field(
        description="a folder, a hub id, the file of an export, or mini:NAME for weights that ship with the project"
    )
    miniature: bool = Field(default=False, description="the model is a small stand-in; verdicts say so")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    num_cpus: float = Field(default=1.0, ge=0, description="logical CPUs Ray reserves for a replica")
    num_gpus: float = Field(default=0.0, ge=0, description="share of a GPU Ray reserves for a replica")
    memory_mb: int = Field(default=0, ge=0, description="memory Ray reserves for a replica, MB; 0 reserves none")
    replicas: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1, description="threads the model computes with")
    features: FeatureSettings = Field(default=FeatureSettings(), description="of stage 1")
    reader: ReaderSettings = Field(default=ReaderSettings(), description="of stage 2A")
    language: LanguageSettings = Field(default=LanguageSettings(), description="of stages 2B, 3A and 3B")


class StageSpec(_Settings):
    """One stage: the engine it asks, and how."""

    engine: str = Field(description="an entry of `engines`")
    max_batch: int = Field(default=8, ge=1, description="items a call at most")
    slots: int = Field(default=1, ge=1, description="calls in flight at most, a replica")
    max_queue: int = Field(default=256, ge=1, description="items waiting in the ingress at most")
    timeout_s: float = Field(default=30.0, gt=0, description="a call that takes longer counts as failed")
    options: dict[str, Any] = Field(default_factory=dict, description="settings of this stage's code, e.g. thinking")


class MediaLimits(_Settings):
    """What is refused before any work is done on it."""

    max_bytes: int = Field(default=32 * 2**20, gt=0)
    max_pixels: int = Field(default=50_000_000, gt=0, description="of a photo, or of one frame of a clip")
    max_seconds: float = Field(default=120.0, gt=0, description="length of a clip")
    max_clip_frames: int = Field(default=7200, gt=0, description="frames a clip may declare or hold")
    frames: int = Field(default=8, ge=1, le=64, description="frames sampled from a clip")
    thumb_side: int = Field(
        default=224, ge=16, multiple_of=16, description="side of the square stage 1 sees, pixels; a multiple of 16"
    )
    frame_side: int = Field(default=960, ge=224, description="longer side at which a clip's frames travel on, pixels")


class IngressSpec(_Settings):
    """The composed deployment in front."""

    replicas: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=0.5, ge=0)
    max_ongoing_requests: int = Field(
        default=256, ge=1, description="requests in work at once, a replica; more are refused"
    )
    decode_threads: int = Field(default=2, ge=1)
    default_deadline_ms: int = Field(default=30_000, ge=1)
    max_batch_files: int = Field(default=32, ge=1, description="files in one batch request")
    max_bytes_in_work: int = Field(
        default=512 * 2**20, ge=2**20, description="bytes of media in all requests in work, a replica; more are refused"
    )
    max_batch_bytes: int = Field(default=128 * 2**20, ge=1, description="bytes of one batch request")


class Profile(_Settings):
    """Everything that differs between a laptop and a server with two cards."""

    name: str
    description: str = ""
    policy: str = Field(description="name of a policy that ships with the project, or a path")
    media: MediaLimits = MediaLimits()
    ingress: IngressSpec = IngressSpec()
    engines: dict[str, EngineSpec]
    stages: dict[StageName, StageSpec]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.stages:
            raise ValueError(f"stages is empty; add at least one of {', '.join(STAGES)}, and the engine it asks")
        for name, spec in self.stages.items():
            if spec.engine not in self.engines:
                raise ValueError(
                    f"stages.{name}.engine: there is no engine {spec.engine!r}; add it to engines, or name one of "
                    f"{', '.join(self.engines) or 'those you add'}"
                )
        for name, using in self.users().items():
            kinds = {ROLES[stage] for stage in using}
            if len(kinds) > 1:
                raise ValueError(
                    f"engines.{name} is used by {', '.join(using)}, which ask different things of it; give "
                    f"{list(using)[-1]} an engine of its own"
                )
        return self

    def engine_of(self, stage: StageName) -> EngineSpec:
        """The engine that a stage asks."""
        return self.engines[self.stages[stage].engine]

    def users(self) -> dict[str, dict[StageName, StageSpec]]:
        """The stages by the engine they ask; engines that no stage asks are left out and never started."""
        found: dict[str, dict[StageName, StageSpec]] = {}
        for stage, spec in self.stages.items():
            found.setdefault(spec.engine, {})[stage] = spec
        return found
