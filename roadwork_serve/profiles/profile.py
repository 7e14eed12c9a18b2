"""A profile: which models run, on which backend, and on what hardware. Typed, described and validated as a whole."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from roadwork_serve.profiles.journal import JournalSpec

STAGES = ("backbone", "closeup", "signs", "vlm", "reasoner", "video")
StageName = Literal["backbone", "closeup", "signs", "vlm", "reasoner", "video"]
Role = Literal["features", "ocr", "language"]
#: The kind of engine that each stage needs.
ROLES: dict[StageName, Role] = {
    "backbone": "features",
    "closeup": "features",
    "signs": "ocr",
    "vlm": "language",
    "reasoner": "language",
    "video": "language",
}
#: The backends that can run each kind of engine.
BACKENDS: dict[Role, tuple[str, ...]] = {
    "features": ("transformers", "onnx", "tensorrt"),
    "ocr": ("transformers", "rapidocr"),
    "language": ("transformers", "vllm", "openai"),
}

_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Backend = Literal["transformers", "rapidocr", "onnx", "tensorrt", "vllm", "openai"]
Quantization = Literal["fp8", "awq"]


class FeatureSettings(_Settings):
    """Settings of a backbone (stage 1)."""

    head: str | None = Field(
        default=None,
        description="Folder with head.json. By default the head is loaded from the folder of the weights.",
    )
    second_head: str | None = Field(
        default=None,
        description="Folder of a candidate head. Its prediction is recorded in each verdict and has no effect on it.",
    )
    policy_heads: str | None = Field(
        default=None,
        description="Folder of the heads that policies may name. By default `heads` in the state folder.",
    )
    compile: bool | None = Field(
        default=None, description="Compile the model with torch.compile. By default only on a GPU."
    )
    side: int | None = Field(
        default=None, description="Side of the thumbnails the model sees, in pixels. Set from media.thumb_side."
    )
    keep_features: bool | None = Field(
        default=None,
        description="Return the backbone's features with each prediction, so that the journal can store them for "
        "training heads. Set from journal.features.",
    )
    max_thumbs: int | None = Field(
        default=None,
        ge=1,
        description="Largest number of photos and frames in one forward pass. 64 by default, 16 on a CPU.",
    )


class OcrSettings(_Settings):
    """Settings of an OCR engine (stage 2A)."""

    side: int = Field(
        default=736, ge=64, description="Images are scaled to this longer side, in pixels, before text is detected."
    )


class LanguageSettings(_Settings):
    """Settings of a vision language model (stages 2B, 3A and 3B)."""

    max_pixels: int | None = Field(
        default=None, ge=1024, description="Largest image the model sees, in pixels. Larger ones are scaled down."
    )
    context_tokens: int = Field(
        default=2048,
        ge=256,
        description="Longest context of one request in tokens: prompt, reasoning and answer. `roadwork plan` reserves "
        "memory for it.",
    )


class VllmSettings(_Settings):
    """Settings of a vLLM engine inside the replica.

    On a GPU set one of the two sizes. Without them vLLM takes the whole GPU.
    """

    gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="Share of the GPU's memory for weights, activations and KV cache."
    )
    kv_cache_gib: float | None = Field(
        default=None, gt=0, description="Size of the KV cache in GiB. Weights and activations come on top."
    )
    enforce_eager: bool = Field(
        default=False, description="Disable compilation and CUDA graphs. Starts sooner and runs slower."
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="Further arguments for vLLM's AsyncEngineArgs.")


class ServerSettings(_Settings):
    """Settings of an OpenAI-compatible server that runs elsewhere: vLLM, SGLang, Modular MAX."""

    url: str = Field(default="", description="Base URL of the server with /v1, e.g. http://127.0.0.1:8001/v1.")
    api_key_env: str | None = Field(
        default=None, description="Name of the environment variable that holds the server's API key."
    )


class EngineSpec(_Settings):
    """A model, the backend that runs it, and its share of the machine.

    Stages that name the same engine share one process.
    """

    backend: Backend = Field(description="Library or server that runs the model.")
    model: str = Field(
        description="A folder, a Hugging Face hub id, an exported file, or bundled:NAME for weights in the package."
    )
    revision: str | None = Field(
        default=None, description="Commit, tag or branch of a hub id. The newest commit by default."
    )
    miniature: bool = Field(
        default=False, description="The model is a small replacement for trying the system out. Verdicts report it."
    )
    trust_remote_code: bool = Field(
        default=False, description="Run Python code from the checkpoint, with all rights of the server."
    )
    quantization: Quantization | None = Field(
        default=None,
        description="Quantization of the decoder's weights: that of the checkpoint, or fp8, which vLLM can also make "
        "on load. Only for backend: vllm.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Floating-point type of the weights and activations."
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Device the model runs on.")
    num_cpus: float = Field(default=1.0, ge=0, description="Logical CPUs Ray reserves for each replica.")
    num_gpus: float = Field(default=0.0, ge=0, description="Share of a GPU Ray reserves for each replica.")
    memory_mb: int = Field(default=0, ge=0, description="Memory Ray reserves for each replica, in MB. 0 reserves none.")
    gpu_memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="Limit on the GPU memory PyTorch may allocate, in GiB. vLLM has settings of its own.",
    )
    replicas: int = Field(default=1, ge=1, description="Number of replicas at the start, and the minimum.")
    max_replicas: int | None = Field(
        default=None, ge=1, description="Maximum number of replicas under load. By default equal to `replicas`."
    )
    scale_to_zero: bool = Field(
        default=False,
        description="Stop the last replica after 15 minutes without a request. The next item skips the stage, and "
        "starts a replica again.",
    )
    rolling_surge: bool | None = Field(
        default=None,
        description="On an update start the new replica before the old one stops, which needs room for both. By "
        "default only on a CPU. When disabled, the stage is unavailable while its model loads.",
    )
    time_slice_group: str | None = Field(
        default=None,
        description="Engines with the same group name share one process and one GPU; one of them is awake at a time.",
    )
    threads: int = Field(default=1, ge=1, description="CPU threads the model computes with.")
    features: FeatureSettings = Field(default=FeatureSettings(), description="Settings of stage 1.")
    ocr: OcrSettings = Field(default=OcrSettings(), description="Settings of stage 2A.")
    language: LanguageSettings = Field(default=LanguageSettings(), description="Settings of stages 2B, 3A and 3B.")
    vllm: VllmSettings = Field(default=VllmSettings(), description="Settings for backend: vllm.")
    server: ServerSettings = Field(default=ServerSettings(), description="Settings for backend: openai.")

    @property
    def scales(self) -> bool:
        """True if the number of replicas follows the load."""
        return self.scale_to_zero or (self.max_replicas or self.replicas) > self.replicas

    @model_validator(mode="after")
    def _validate(self) -> Self:
        for wrong, message in self._checks():
            if wrong:
                raise ValueError(message)
        return self

    def _checks(self) -> Iterator[tuple[bool, str]]:
        """Yield whether each rule is broken, and its message."""
        on_gpu = self.device == "cuda"
        sliced = self.time_slice_group is not None
        yield on_gpu and self.num_gpus <= 0, "num_gpus is 0 and device is cuda; set the share of the GPU it needs"
        yield not on_gpu and self.num_gpus > 0, "num_gpus is set and device is cpu; set device: cuda, or remove it"
        yield self.num_gpus > 1 and self.num_gpus % 1 != 0, "num_gpus above 1 must be a whole number of GPUs"
        yield (
            self.max_replicas is not None and self.max_replicas < self.replicas,
            "max_replicas is below replicas; raise it or leave it out",
        )
        yield self.backend == "openai" and not self.server.url, "server.url is missing; set the URL of the server"
        yield (
            self.backend != "openai" and bool(self.server.url),
            f"server is set and backend is {self.backend}; set backend: openai, or remove server",
        )
        yield (
            self.features.second_head is not None and self.backend != "transformers",
            f"features.second_head: {self.backend} cannot run a second head; set backend: transformers, or remove it",
        )
        yield self.backend == "rapidocr" and on_gpu, "device: rapidocr runs on the CPU; leave it out"
        yield self.backend == "tensorrt" and not on_gpu, "device: tensorrt runs on a GPU; set cuda, and num_gpus"
        yield (
            sliced and (self.max_replicas or self.replicas) > 1,
            "replicas: an engine with time_slice_group has one replica; remove replicas and max_replicas",
        )
        yield (
            sliced and self.scale_to_zero,
            "scale_to_zero: an engine with time_slice_group is always loaded; remove one of the two",
        )
        if self.backend in ("onnx", "tensorrt", "openai", "rapidocr"):
            yield (
                self.gpu_memory_gib is not None,
                f"gpu_memory_gib: {self.backend} does not allocate through PyTorch; remove it",
            )
            yield self.trust_remote_code, f"trust_remote_code: {self.backend} loads no code of a checkpoint; remove it"
            yield self.revision is not None, f"revision: {self.backend} downloads nothing from the hub; remove it"
            yield sliced, f"time_slice_group: {self.backend} cannot sleep; remove it"
        if self.backend != "vllm":
            yield (
                self.quantization is not None,
                f"quantization is for backend: vllm, and backend is {self.backend}; remove it",
            )
            yield (
                self.vllm != VllmSettings(),
                f"vllm is set and backend is {self.backend}; set backend: vllm, or remove vllm",
            )
            return
        yield sliced and not on_gpu, "time_slice_group: vllm can sleep only on a GPU; set device: cuda"
        sizes = [size for size in (self.vllm.gpu_memory_utilization, self.vllm.kv_cache_gib) if size is not None]
        yield len(sizes) > 1, "vllm: set gpu_memory_utilization or kv_cache_gib, not both"
        yield on_gpu and not sizes, "vllm: set gpu_memory_utilization or kv_cache_gib, or it takes the whole GPU"
        yield (
            self.gpu_memory_gib is not None,
            "gpu_memory_gib does not apply to vllm; set vllm.gpu_memory_utilization instead",
        )


class StageSpec(_Settings):
    """One stage: the engine it uses, and how."""

    engine: str = Field(description="Name of an entry of `engines`.")
    max_batch: int = Field(default=8, ge=1, description="Largest number of items in one call.")
    slots: int = Field(default=1, ge=1, description="Largest number of concurrent calls to one replica.")
    max_queue: int = Field(default=256, ge=1, description="Largest number of items queued in one ingress replica.")
    timeout_s: float = Field(default=30.0, gt=0, description="A call that takes longer, in seconds, counts as failed.")
    required: bool = Field(
        default=True,
        description="Accept no request before this stage is ready. Other stages join once they are ready.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Settings of this stage's own code, e.g. thinking."
    )


class MediaLimits(_Settings):
    """Limits on media. A file beyond them is rejected before any work is done on it."""

    max_bytes: int = Field(default=32 * 2**20, gt=0, description="Largest file in bytes.")
    max_pixels: int = Field(
        default=50_000_000, gt=0, description="Largest photo, or largest frame of a clip, in pixels."
    )
    max_aspect: float = Field(
        default=50.0, ge=1, description="Largest ratio of the longer side of a photo or clip to the shorter one."
    )
    max_seconds: float = Field(default=120.0, gt=0, description="Longest clip in seconds.")
    max_clip_frames: int = Field(default=7200, gt=0, description="Largest number of frames a clip may declare or hold.")
    max_decode_s: float = Field(
        default=15.0, gt=0, description="Longest time decoding one file may take in seconds, without queueing."
    )
    frames: int = Field(default=8, ge=1, le=64, description="Number of frames sampled from a clip.")
    thumb_side: int = Field(
        default=224,
        ge=14,
        description="Side of the square thumbnail that stage 1 sees, in pixels. A multiple of its backbone's patch: "
        "16 for the ViTs of DINOv3, 14 for DINOv2, 32 for a ConvNeXt.",
    )
    page_side: int = Field(
        default=1536,
        ge=224,
        description="Longer side to which photos are scaled for the later stages, in pixels.",
    )
    frame_side: int = Field(
        default=960,
        ge=224,
        description="Longer side to which frames of a clip are scaled for the later stages, in pixels.",
    )


class IngressSpec(_Settings):
    """The HTTP deployment in front, which runs the cascade."""

    replicas: int = Field(default=1, ge=1, description="Number of ingress replicas.")
    max_per_node: int | None = Field(
        default=None,
        ge=1,
        description="Largest number of ingress replicas on one Ray node; further ones wait for another node. By "
        "default Ray spreads them over the nodes that exist at the start, and a node that joins later gets none.",
    )
    num_cpus: float = Field(default=0.5, ge=0, description="Logical CPUs Ray reserves for each replica.")
    max_ongoing_requests: int = Field(
        default=256,
        ge=1,
        description="Largest number of concurrent requests to one replica. Further ones are rejected.",
    )
    decode_processes: int = Field(default=2, ge=1, description="Number of decoding processes of each replica.")
    default_deadline_ms: int = Field(
        default=30_000, ge=1, description="Deadline of a request that sets none, in milliseconds."
    )
    max_batch_files: int = Field(default=32, ge=1, description="Largest number of files in one batch request.")
    max_in_flight_bytes: int = Field(
        default=512 * 2**20,
        ge=2**20,
        description="Largest number of bytes of media in all requests in flight in one replica. Further requests are "
        "rejected.",
    )
    max_batch_bytes: int = Field(default=128 * 2**20, ge=1, description="Largest batch request in bytes.")
    gpu_hour_price: float = Field(
        default=0.0,
        ge=0,
        description="Price of one GPU for one hour, in any currency. Costs are reported in that currency.",
    )
    keys_file: str | None = Field(
        default=None,
        description="File with the API keys on the node of an ingress replica. By default ROADWORK_KEYS_FILE.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="Host names under which a server without API keys answers, besides IP addresses and localhost. "
        "Requests under other names are rejected: a web page can point its own name at the server.",
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _validate_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(
                    f"{host!r} is no host name; write it in lower case without scheme and port, such as road.example"
                )
        return hosts

    @model_validator(mode="after")
    def _validate(self) -> Self:
        if self.max_per_node is not None and self.replicas <= self.max_per_node:
            raise ValueError(
                f"max_per_node is {self.max_per_node} and replicas is {self.replicas}, so one node takes all of them; "
                "set more replicas, or leave it out"
            )
        return self


class Profile(_Settings):
    """Everything that differs between a laptop and a server with two GPUs."""

    name: str = Field(description="Name of the profile.")
    description: str = Field(default="", description="One line about the models and the hardware.")
    policy: str = Field(description="Name of a policy in the package, or the path of one.")
    gpus_gib: tuple[float, ...] = Field(
        default=(),
        description="Memory of each GPU this profile is made for, in GiB as CUDA reports it. Used by `roadwork plan`.",
    )
    media: MediaLimits = Field(default=MediaLimits(), description="Limits on photos and clips.")
    ingress: IngressSpec = Field(default=IngressSpec(), description="Settings of the HTTP deployment.")
    journal: JournalSpec = Field(default=JournalSpec(), description="Settings of the journal of verdicts.")
    engines: dict[str, EngineSpec] = Field(description="The engines by name.")
    stages: dict[StageName, StageSpec] = Field(description="The stages of the cascade by name.")

    @model_validator(mode="after")
    def _validate(self) -> Self:
        self._check_stages()
        self._check_engines()
        self._check_time_slices()
        self._configure_thumbnails()
        return self

    def _check_stages(self) -> None:
        if not self.stages:
            raise ValueError(f"stages is empty; add at least one of {', '.join(STAGES)}, and the engine it uses")
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
            if len({ROLES[stage] for stage in users}) > 1:
                raise ValueError(
                    f"engines.{name} is used by {', '.join(users)}, which need different kinds of engines; give "
                    f"{list(users)[-1]} an engine of its own"
                )
            backend, supported = self.engines[name].backend, BACKENDS[ROLES[next(iter(users))]]
            if backend not in supported:
                raise ValueError(
                    f"engines.{name}.backend: {backend} cannot run {', '.join(users)}; use " + " or ".join(supported)
                )

    def _check_time_slices(self) -> None:
        for group, names in self._time_slice_groups().items():
            if other := next((name for name in names if ROLES[next(iter(self.users()[name]))] != "language"), None):
                raise ValueError(f"engines.{other}.time_slice_group: only language models can sleep; remove it")
            if len(names) == 1:
                raise ValueError(
                    f"engines.{names[0]}.time_slice_group: no other engine is in the group {group!r}; remove it"
                )
            for field in ("gpu_memory_gib", "num_gpus"):
                if len({getattr(self.engines[name], field) for name in names}) > 1:
                    raise ValueError(
                        f"engines {', '.join(names)} share the time_slice_group {group!r}; give all the same {field}"
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
        """Return the engines of each process: one, or all of a time_slice_group."""
        members = {name: names for names in self._time_slice_groups().values() for name in names}
        return list(dict.fromkeys(members.get(name, (name,)) for name in self.users()))

    def _time_slice_groups(self) -> dict[str, tuple[str, ...]]:
        """Return the engines of each time_slice_group."""
        found: dict[str, tuple[str, ...]] = {}
        for name in self.users():
            if (group := self.engines[name].time_slice_group) is not None:
                found[group] = (*found.get(group, ()), name)
        return found
