"""The cases that are measured, and the number of repetitions."""

from dataclasses import dataclass

# The models of a GPU profile; Molmo 2 in the size that leaves room for the others on a 24 GB GPU.
BACKBONE = "facebook/dinov3-vitl16-pretrain-lvd1689m"
FLORENCE = "florence-community/Florence-2-large"
QWEN = "Qwen/Qwen3-VL-8B-Instruct"
MOLMO = "allenai/Molmo2-4B"


@dataclass(frozen=True, slots=True)
class Effort:
    """The number of timed calls: until `budget_s` is spent, within the limits."""

    warmup: int
    min_calls: int
    max_calls: int
    budget_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The cases to measure. Sides are of square images, in pixels; tokens are generated tokens."""

    sides: tuple[int, ...]
    #: Of stage 1, at most eight.
    batches: tuple[int, ...]
    #: With CUDA graphs.
    graph_batches: tuple[int, ...]
    florence_side: int
    florence_batches: tuple[int, ...]
    florence_tokens: tuple[int, ...]
    #: Tokens of Florence-2 with which the cascade's latency is computed.
    reference_tokens: int
    qwen_sides: tuple[int, ...]
    qwen_batches: tuple[int, ...]
    #: Image side of Qwen3-VL with which the cascade's latency is computed.
    reference_side: int
    reasoning_tokens: int
    #: Of a clip. Stage 1 and Florence-2 process a clip frame by frame, so their batches must include this number.
    frames: int
    #: Of the matrices whose product measures the peak throughput.
    peak_side: int
    effort: Effort


FULL = Plan(
    sides=(224, 256, 512),
    batches=(1, 2, 4, 8, 16, 32, 64),
    graph_batches=(1, 2, 4, 8),  # where launching kernels takes longer than running them
    florence_side=768,
    florence_batches=(1, 4, 8),
    florence_tokens=(32, 64, 96),
    reference_tokens=64,  # three signs, as in profiles/flops.yaml
    qwen_sides=(256, 512, 768, 1024),
    qwen_batches=(1, 8),
    reference_side=512,
    reasoning_tokens=128,
    frames=8,
    peak_side=8192,
    effort=Effort(warmup=3, min_calls=5, max_calls=50, budget_s=1.5),
)
TINY = Plan(
    sides=(32, 48, 64),
    batches=(1, 2),
    graph_batches=(1,),
    florence_side=64,
    florence_batches=(1, 2),
    florence_tokens=(2, 3),
    reference_tokens=3,
    qwen_sides=(64, 96),
    qwen_batches=(1, 2),
    reference_side=64,
    reasoning_tokens=4,
    frames=2,
    peak_side=256,
    effort=Effort(warmup=1, min_calls=3, max_calls=3, budget_s=0.0),
)
