"""A profile: which models run, how, and on what. Typed, described, validated as a whole."""

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from roadwork_serve.profiles.journal import JournalSpec

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
BACKENDS: dict[Role, tuple[str, ...]] = {
    "features": ("transformers", "onnx", "tensorrt"),
    "reader": ("transformers", "rapidocr"),
    "language": ("transformers", "vllm", "openai"),
}  # what can be asked so


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Backend = Literal["transformers", "rapidocr", "onnx", "tensorrt", "vllm", "openai"]
Quantization = Literal["fp8", "awq"]


class FeatureSettings(_Settings):
    """Of a backbone."""

    head: str | None = Field(default=None, description="folder with head.json, when it is not beside the weights")
    second_head: str | None = Field(
        default=None, description="folder of a head on trial: verdicts record what it says and do not heed it"
    )
    compile: bool | None = Field(default=None, description="run through torch.compile; by default on a GPU only")
    side: int | None = Field(default=None, description="of the thumbs it sees, pixels; always media.thumb_side")
    kept: bool | None = Field(
        default=None, description="opinions bring along what a head is trained on; always journal.features"
    )
    max_thumbs: int | None = Field(
        default=None, ge=1, description="photos and frames in one pass of the model; 64 by default, 16 on a CPU"
    )


class OcrSettings(_Settings):
    """Of a sign reader."""

    side: int = Field(default=736, ge=64, description="text is looked for at this longer side, pixels")


class LanguageSettings(_Settings):
    """Of a vision language model."""

    max_pixels: int | None = Field(default=None, ge=1024, description="of an image as the model sees it")
    context_tokens: int = Field(
        default=2048, ge=256, description="longest prompt with its thought and answer; what the planner makes room for"
    )


class VllmSettings(_Settings):
    """Of a vLLM engine inside the replica. On a GPU give one of the two sizes: vLLM would take all of the card."""

    gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="share of the whole card for weights, activations and KV cache"
    )
    kv_cache_gib: float | None = Field(
        default=None, gt=0, description="KV cache, GiB; weights and activations come on top"
    )
    enforce_eager: bool = Field(default=False, description="no compilation and no CUDA graphs: starts sooner, slower")
    arguments: dict[str, Any] = Field(default_factory=dict, description="further arguments of vLLM's AsyncEngineArgs")


class ServerSettings(_Settings):
    """Of an OpenAI-compatible server that runs elsewhere: vLLM, SGLang, Modular MAX."""

    url: str = Field(default="", description="up to and with /v1, e.g. http://127.0.0.1:8001/v1")
    api_key_env: str | None = Field(default=None, description="environment variable that holds the server's API key")


class EngineSpec(_Settings):
    """A model, what runs it, and its share of the machine. Stages that name the same engine share one process."""

    runs: Backend = Field(description="what runs the model")
    model: str = Field(
        description="a folder, a hub id, the file of an export, or mini:NAME for weights that ship with the project"
    )
    revision: str | None = Field(default=None, description="commit, tag or branch of a hub id; the newest by default")
    miniature: bool = Field(default=False, description="the model is a small stand-in; verdicts say so")
    trust_remote_code: bool = Field(
        default=False, description="run Python that a checkpoint brings along, with all rights of the server"
    )
    quantization: Quantization | None = Field(
        default=None, description="what the decoder's weights are, or are made into on load (fp8); vllm alone"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    num_cpus: float = Field(default=1.0, ge=0, description="logical CPUs Ray reserves for a replica")
    num_gpus: float = Field(default=0.0, ge=0, description="share of a GPU Ray reserves for a replica")
    memory_mb: int = Field(default=0, ge=0, description="memory Ray reserves for a replica, MB; 0 reserves none")
    gpu_memory_gib: float | None = Field(
        default=None, gt=0, description="most PyTorch may take of its card, GiB; vllm has limits of its own"
    )
    replicas: int = Field(default=1, ge=1, description="processes, at the start and at least")
    max_replicas: int | None = Field(default=None, ge=1, description="processes at most under load; as many by default")
    scale_to_zero: bool = Field(
        default=False,
        description="none is kept after a quarter of an hour in which nobody asked; the next item is answered without "
        "it and wakes it",
    )
    surge: bool | None = Field(
        default=None,
        description="a new version of the code starts before the one it replaces ends, and takes room beside it; by "
        "default on a CPU only. Without it the stage is away while its model loads",
    )
    turns: str | None = Field(
        default=None,
        description="engines with the same word here share one process and one card and take turns: one awake",
    )
    threads: int = Field(default=1, ge=1, description="threads the model computes with")
    features: FeatureSettings = Field(default=FeatureSettings(), description="of stage 1")
    reader: OcrSettings = Field(default=OcrSettings(), description="of stage 2A")
    language: LanguageSettings = Field(default=LanguageSettings(), description="of stages 2B, 3A and 3B")
    vllm: VllmSettings = Field(default=VllmSettings(), description="of engines that vllm runs")
    server: ServerSettings = Field(default=ServerSettings(), description="of engines that openai runs")

    @property
    def scales(self) -> bool:
        """Whether the number of its processes follows the load."""
        return self.scale_to_zero or (self.max_replicas or self.replicas) > self.replicas

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        for wrong, told in self._doubts():
            if wrong:
                raise ValueError(told)
        return self

    def _doubts(self) -> Iterator[tuple[bool, str]]:
        on_gpu = self.device == "cuda"
        yield on_gpu and self.num_gpus <= 0, "num_gpus is 0 and device is cuda; book the share of the card it takes"
        yield not on_gpu and self.num_gpus > 0, "num_gpus is booked and device is cpu; set device: cuda, or book none"
        yield self.num_gpus > 1 and self.num_gpus % 1 != 0, "num_gpus above 1 must be whole cards"
        yield (
            self.max_replicas is not None and self.max_replicas < self.replicas,
            "max_replicas is below replicas; raise it or leave it out",
        )
        yield self.runs == "openai" and not self.server.url, "server.url is missing; say where the server listens"
        yield (
            self.runs != "openai" and bool(self.server.url),
            f"server is set and {self.runs} runs it; set runs: openai, or take server out",
        )
        yield (
            self.features.second_head is not None and self.runs != "transformers",
            f"features.second_head: {self.runs} runs no head but its own; set runs: transformers, or take it out",
        )
        yield self.runs == "rapidocr" and on_gpu, "device: rapidocr runs on the cpu; leave it out"
        yield self.runs == "tensorrt" and not on_gpu, "device: tensorrt runs on a GPU; set cuda, and num_gpus"
        yield (
            self.turns is not None and (self.max_replicas or self.replicas) > 1,
            "replicas: engines that take turns have one; take it out",
        )
        yield self.turns is not None and self.scale_to_zero, "may_sleep: engines that take turns stay; take it out"
        if self.runs in ("onnx", "tensorrt", "openai", "rapidocr"):
            yield self.gpu_memory_gib is not None, f"gpu_memory_gib: {self.runs} cannot be held to it; take it out"
            yield self.trust_remote_code, f"trust_remote_code: {self.runs} loads no checkpoint's code; take it out"
            yield self.revision is not None, f"revision: {self.runs} loads nothing from the hub; take it out"
            yield self.turns is not None, f"turns: {self.runs} cannot sleep; take it out"
        if self.runs != "vllm":
            yield self.quantization is not None, f"quantised is vllm's, and {self.runs} runs it; take it out"
            yield self.vllm != VllmSettings(), f"vllm is set and {self.runs} runs it; set runs: vllm, or take vllm out"
            return
        yield self.turns is not None and not on_gpu, "turns: vllm can sleep on a GPU alone; set device: cuda"
        sizes = [size for size in (self.vllm.gpu_memory_utilization, self.vllm.kv_cache_gib) if size is not None]
        yield len(sizes) > 1, "vllm: give gpu_memory_utilization or kv_cache_gib, not both"
        yield on_gpu and not sizes, "vllm: give gpu_memory_utilization or kv_cache_gib, else it takes the whole card"
        yield self.gpu_memory_gib is not None, "gpu_memory_gib is not vllm's; give vllm.gpu_memory_utilization"


class StageSpec(_Settings):
    """One stage: the engine it asks, and how."""

    engine: str = Field(description="an entry of `engines`")
    max_batch: int = Field(default=8, ge=1, description="items a call at most")
    slots: int = Field(default=1, ge=1, description="calls in flight at most, a replica")
    max_queue: int = Field(default=256, ge=1, description="items waiting in the ingress at most")
    timeout_s: float = Field(default=30.0, gt=0, description="a call that takes longer counts as failed")
    required: bool = Field(
        default=True, description="no request is accepted before it is warm; one that is not required joins when it is"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="settings of this stage's code, e.g. thinking")


class MediaLimits(_Settings):
    """What is refused before any work is done on it."""

    max_bytes: int = Field(default=32 * 2**20, gt=0)
    max_pixels: int = Field(default=50_000_000, gt=0, description="of a photo, or of one frame of a clip")
    max_seconds: float = Field(default=120.0, gt=0, description="length of a clip")
    max_clip_frames: int = Field(default=7200, gt=0, description="frames a clip may declare or hold")
    max_decode_s: float = Field(default=15.0, gt=0, description="that reading a file may take, queueing left out")
    frames: int = Field(default=8, ge=1, le=64, description="frames sampled from a clip")
    thumb_side: int = Field(
        default=224, ge=16, multiple_of=16, description="side of the square stage 1 sees, pixels; a multiple of 16"
    )
    frame_side: int = Field(default=960, ge=224, description="longer side at which a clip's frames travel on, pixels")


class IngressSpec(_Settings):
    """The composed deployment in front."""

    replicas: int = Field(default=1, ge=1)
    max_per_node: int | None = Field(
        default=None,
        ge=1,
        description="replicas on one Ray node at most: the others wait for another node. Without it Ray spreads them "
        "over the nodes there are when they start, and one that joins later gets none",
    )
    num_cpus: float = Field(default=0.5, ge=0)
    max_ongoing_requests: int = Field(
        default=256, ge=1, description="requests in work at once, a replica; more are refused"
    )
    decode_processes: int = Field(default=2, ge=1, description="processes that read files, a replica")
    default_deadline_ms: int = Field(default=30_000, ge=1)
    max_batch_files: int = Field(default=32, ge=1, description="files in one batch request")
    max_in_flight_bytes: int = Field(
        default=512 * 2**20, ge=2**20, description="bytes of media in all requests in work, a replica; more are refused"
    )
    max_batch_bytes: int = Field(default=128 * 2**20, ge=1, description="bytes of one batch request")
    gpu_hour_price: float = Field(
        default=0.0, ge=0, description="of a whole card, in any currency; what answers cost is told by it"
    )
    keys_file: str | None = Field(
        default=None, description="file with the API keys, where an ingress runs; else what ROADWORK_KEYS_FILE says"
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.max_per_node is not None and self.replicas <= self.max_per_node:
            raise ValueError(
                f"max_per_node is {self.max_per_node} and replicas {self.replicas}: one node takes all of them; set "
                "more replicas, or leave it out"
            )
        return self


class Profile(_Settings):
    """Everything that differs between a laptop and a server with two cards."""

    name: str
    description: str = ""
    policy: str = Field(description="name of a policy that ships with the project, or a path")
    cards_gib: tuple[float, ...] = Field(
        default=(), description="memory of each card this is made for, GiB, as CUDA has it; for `roadwork plan`"
    )
    media: MediaLimits = MediaLimits()
    ingress: IngressSpec = IngressSpec()
    journal: JournalSpec = JournalSpec()
    engines: dict[str, EngineSpec]
    stages: dict[StageName, StageSpec]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.stages:
            raise ValueError(f"stages is empty; add at least one of {', '.join(STAGES)}, and the engine it asks")
        if not any(spec.required for spec in self.stages.values()):
            raise ValueError(
                f"stages.{next(iter(self.stages))}.required: no stage is required, so the server would be ready with "
                "nothing to ask; set required: true in at least one"
            )
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
            runs, can = self.engines[name].runs, BACKENDS[ROLES[next(iter(using))]]
            if runs not in can:
                raise ValueError(
                    f"engines.{name}.runs: {runs} cannot do what {', '.join(using)} asks of it; use " + " or ".join(can)
                )
        for word, names in self._turns().items():
            if other := next((name for name in names if ROLES[next(iter(self.users()[name]))] != "language"), None):
                raise ValueError(f"engines.{other}.turns: language models alone can sleep; take it out")
            if len(names) == 1:
                raise ValueError(f"engines.{names[0]}.turns: no other engine takes turns in {word!r}; take it out")
            if len({self.engines[name].gpu_memory_gib for name in names}) > 1:
                raise ValueError(f"engines {', '.join(names)} take turns in one process; give all one gpu_memory_gib")
            if len({self.engines[name].num_gpus for name in names}) > 1:
                raise ValueError(f"engines {', '.join(names)} take turns on one share of a card; give all one num_gpus")
        self._tell_thumbs()
        return self

    def _tell_thumbs(self) -> None:
        """Let the engine of stage 1 know what it will see, so that it can refuse, compile and warm up for it."""
        if "backbone" not in self.stages:
            return
        stage, side = self.stages["backbone"], self.media.thumb_side
        engine = self.engines[stage.engine]
        if engine.features.side not in (None, side):
            raise ValueError(
                f"engines.{stage.engine}.features.side: {engine.features.side} px, and media.thumb_side is {side}; "
                "leave features.side out"
            )
        most = min(64 if engine.device == "cuda" else 16, stage.max_batch * self.media.frames)
        told: dict[str, Any] = {"side": side, "max_thumbs": engine.features.max_thumbs or most}
        if engine.runs == "transformers":  # an exported file gives logits alone
            told["kept"] = self.journal.enabled and self.journal.features
        self.engines[stage.engine] = engine.model_copy(update={"features": engine.features.model_copy(update=told)})

    def engine_of(self, stage: StageName) -> EngineSpec:
        """The engine that a stage asks."""
        return self.engines[self.stages[stage].engine]

    def users(self) -> dict[str, dict[StageName, StageSpec]]:
        """The stages by the engine they ask; engines that no stage asks are left out and never started."""
        found: dict[str, dict[StageName, StageSpec]] = {}
        for stage, spec in self.stages.items():
            found.setdefault(spec.engine, {})[stage] = spec
        return found

    def processes(self) -> list[tuple[str, ...]]:
        """The engines by the process that opens them: each has its own but for those that take turns."""
        turns = self._turns()
        first = {name: names for names in turns.values() for name in names}
        groups = (first.get(name, (name,)) for name in self.users())
        return list(dict.fromkeys(groups))

    def _turns(self) -> dict[str, tuple[str, ...]]:
        """Engines that take turns, by their word."""
        found: dict[str, tuple[str, ...]] = {}
        for name in self.users():
            if (word := self.engines[name].turns) is not None:
                found[word] = (*found.get(word, ()), name)
        return found
