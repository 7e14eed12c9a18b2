"""A profile: which models run, how, and on what. Typed, described, validated as a whole."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

STAGES = ("backbone", "signs", "vlm", "reasoner", "video")
StageName = Literal["backbone", "signs", "vlm", "reasoner", "video"]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StageSpec(_Settings):
    """One stage: its model and its share of the machine."""

    engine: Literal["transformers", "rapidocr"] = Field(description="what runs the model")
    model: str = Field(description="a folder, a hub id, or mini:NAME for weights that ship with the project")
    miniature: bool = Field(default=False, description="the model is a small stand-in; verdicts say so")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    num_cpus: float = Field(default=1.0, ge=0, description="logical CPUs Ray reserves for a replica")
    num_gpus: float = Field(default=0.0, ge=0, description="share of a GPU Ray reserves for a replica")
    memory_mb: int = Field(default=0, ge=0, description="memory Ray reserves for a replica, MB; 0 reserves none")
    replicas: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1, description="threads the model computes with")
    max_batch: int = Field(default=8, ge=1, description="items a call at most")
    slots: int = Field(default=1, ge=1, description="calls in flight at most, a replica")
    max_queue: int = Field(default=256, ge=1, description="items waiting in the ingress at most")
    timeout_s: float = Field(default=30.0, gt=0, description="a call that takes longer counts as failed")
    options: dict[str, Any] = Field(default_factory=dict, description="settings of this stage's code, e.g. max_pixels")


class MediaLimits(_Settings):
    """What is refused before any work is done on it."""

    max_bytes: int = Field(default=32 * 2**20, gt=0)
    max_pixels: int = Field(default=50_000_000, gt=0, description="of a photo, or of one frame of a clip")
    max_seconds: float = Field(default=120.0, gt=0, description="length of a clip")
    max_clip_frames: int = Field(default=7200, gt=0, description="frames a clip may declare or hold")
    frames: int = Field(default=8, ge=1, le=64, description="frames sampled from a clip")
    thumb_side: int = Field(default=224, ge=16, description="side of the square stage 1 sees, pixels; a multiple of 16")
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
    max_batch_bytes: int = Field(default=128 * 2**20, ge=1, description="bytes of one batch request")


class Profile(_Settings):
    """Everything that differs between a laptop and a server with two cards."""

    name: str
    description: str = ""
    policy: str = Field(description="name of a policy that ships with the project, or a path")
    media: MediaLimits = MediaLimits()
    ingress: IngressSpec = IngressSpec()
    stages: dict[StageName, StageSpec]
