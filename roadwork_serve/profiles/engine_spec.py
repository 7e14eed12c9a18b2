"""The part of a profile that describes an engine: a model, the backend that runs it, and its share of the machine."""

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from roadwork_serve.profiles.settings import Settings

Backend = Literal["transformers", "rapidocr", "onnx", "tensorrt", "vllm", "openai", "own"]
#: Number format of the decoder's weights: 8-bit floating point, or 4-bit integers with 16-bit activations.
WeightFormat = Literal["fp8", "int4"]
Quantization = Literal["fp8", "int4", "auto"]
#: Preprocessed images that vLLM keeps in main memory, in GiB, unless vllm.arguments.mm_processor_cache_gb is set. A
#: photo is asked about at most twice, so more would gain little.
PROCESSOR_CACHE_GIB = 0.25


class FeatureSettings(Settings):
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


class OcrSettings(Settings):
    """Settings of an OCR engine (stage 2A)."""

    side: int = Field(
        default=736, ge=64, description="Images are scaled to this longer side, in pixels, before text is detected."
    )


class SamplingSettings(Settings):
    """Settings for choosing the tokens of the reasoning. The answer is never sampled.

    The defaults take the most likely token, which makes some reasoning models repeat themselves. Their model cards
    state values for sampling.
    """

    temperature: float = Field(
        default=0.0, ge=0, le=2, description="Temperature. 0 takes the most likely token, and ignores the rest."
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Sample from the most likely tokens with this total probability."
    )
    top_k: int = Field(default=0, ge=0, description="Sample from this many of the most likely tokens. 0 is no limit.")
    presence_penalty: float = Field(
        default=0.0, ge=0, le=2, description="Subtracted from the logits of tokens that the reasoning already has."
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of every request, so that the same prompt gets the same reasoning."
    )


class LanguageSettings(Settings):
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
    question_first: bool = Field(
        default=False,
        description="Put the question before the image or clip. vLLM then computes the question once instead of for "
        "each prompt. This changes answers, so calibrate again. Not for backend: openai.",
    )
    sampling: SamplingSettings = Field(
        default=SamplingSettings(), description="How the tokens of the reasoning are chosen."
    )


class VllmSettings(Settings):
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
    score_head: bool = Field(
        default=False,
        description="Replace the output layer by one row, YES minus NO, and read it without sampling. Saves the memory "
        "of the output layer. Other spellings and the mass of other tokens are not reported. Only for Qwen3-VL, and "
        "for stages without `thinking`.",
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="Further arguments for vLLM's AsyncEngineArgs.")


class ServerSettings(Settings):
    """Settings of an OpenAI-compatible server that runs elsewhere: vLLM, SGLang, Modular MAX."""

    url: str = Field(default="", description="Base URL of the server with /v1, e.g. http://127.0.0.1:8001/v1.")
    api_key_env: str | None = Field(
        default=None, description="Name of the environment variable that holds the server's API key."
    )


class EngineSpec(Settings):
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
        description="Quantization of the decoder's weights. int4: a 4-bit checkpoint (AWQ, GPTQ, compressed-tensors). "
        "fp8: an FP8 checkpoint, or 16-bit weights that vLLM converts on load. auto: the fastest of `model` and "
        "`quantized_models` on the GPU. Only for backend: vllm.",
    )
    quantized_models: dict[WeightFormat, str] = Field(
        default_factory=dict,
        description="Published checkpoints of `model` with quantized weights, by format: fp8, int4. Used by "
        "quantization: auto.",
    )
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        default="float32",
        description="Type of the weights and activations. auto: 8 bits where a folder of backend `onnx` has a graph "
        "for them and the CPU has 8-bit dot products (VNNI), float32 elsewhere.",
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Device the model runs on.")
    num_cpus: float = Field(default=1.0, ge=0, description="Logical CPUs Ray reserves for each replica.")
    num_gpus: float = Field(default=0.0, ge=0, description="Share of a GPU Ray reserves for each replica.")
    gpu: int | None = Field(
        default=None,
        ge=0,
        description="Index of the GPU within its node, in the order of the PCI bus as in nvidia-smi. By default Ray "
        "chooses one. Either all engines on a GPU name one, or none.",
    )
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
    process: str | None = Field(
        default=None,
        description="Engines on a CPU with the same name here share one process, which takes less memory. If one of "
        "them fails, their stages are replaced together.",
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
        if self.gpu is not None:
            yield not on_gpu, "gpu is set and device is cpu; set device: cuda, or remove it"
            yield self.num_gpus > 1, "gpu names one GPU and num_gpus is above 1; remove gpu, or lower num_gpus"
            yield (
                (self.max_replicas or self.replicas) > self.replicas,
                "max_replicas: all replicas of an engine with gpu run on that GPU, so more of them would not help; "
                "remove one of the two",
            )
        yield (
            self.max_replicas is not None and self.max_replicas < self.replicas,
            "max_replicas is below replicas; raise it or leave it out",
        )
        yield (
            self.dtype == "auto" and self.backend == "vllm",
            "dtype: auto is for the first stage; set the dtype of the checkpoint, bfloat16 or float16",
        )
        yield self.backend == "openai" and not self.server.url, "server.url is missing; set the URL of the server"
        yield (
            self.backend != "openai" and bool(self.server.url),
            f"server is set and backend is {self.backend}; set backend: openai, or remove server",
        )
        yield (
            self.features.second_head is not None and self.backend not in ("transformers", "onnx"),
            f"features.second_head: {self.backend} cannot run a second head; set backend: transformers, or remove it",
        )
        yield (
            self.backend == "openai" and self.language.question_first,
            "language.question_first: the prompt of backend: openai has a fixed order; remove it",
        )
        yield (
            self.backend == "own" and on_gpu and self.gpu_memory_gib is None,
            "gpu_memory_gib is missing; set what the model of your own stage needs, which nobody else knows",
        )
        yield (
            self.backend == "onnx" and self.language.sampling != SamplingSettings(),
            "language.sampling: backend onnx takes the most likely tokens; set backend: transformers, or remove it",
        )
        if self.process is not None:
            yield on_gpu, "process: engines on a GPU have a process each, or a time_slice_group; remove it"
            yield (
                self.replicas > 1 or self.scales,
                "process: an engine that shares a process has one replica; remove replicas, max_replicas and "
                "scale_to_zero",
            )
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
                bool(self.quantized_models),
                f"quantized_models is for backend: vllm, and backend is {self.backend}; remove it",
            )
            yield (
                self.vllm != VllmSettings(),
                f"vllm is set and backend is {self.backend}; set backend: vllm, or remove vllm",
            )
            return
        yield (
            bool(self.quantized_models) and self.quantization != "auto",
            "quantized_models is used only by quantization: auto; set that, or name the checkpoint as `model`",
        )
        yield sliced and not on_gpu, "time_slice_group: vllm can sleep only on a GPU; set device: cuda"
        sizes = [size for size in (self.vllm.gpu_memory_utilization, self.vllm.kv_cache_gib) if size is not None]
        yield len(sizes) > 1, "vllm: set gpu_memory_utilization or kv_cache_gib, not both"
        yield on_gpu and not sizes, "vllm: set gpu_memory_utilization or kv_cache_gib, or it takes the whole GPU"
        yield (
            self.gpu_memory_gib is not None,
            "gpu_memory_gib does not apply to vllm; set vllm.gpu_memory_utilization instead",
        )
