"""What is measured, and how often."""

from dataclasses import dataclass

# What the stages of a GPU profile run; Molmo 2 in the size that leaves a 24 GB card room for the rest.
BACKBONE = "facebook/dinov3-vitl16-pretrain-lvd1689m"
FLORENCE = "florence-community/Florence-2-large"
QWEN = "Qwen/Qwen3-VL-8B-Instruct"
MOLMO = "allenai/Molmo2-4B"


@dataclass(frozen=True, slots=True)
class Effort:
    """How often a call is timed: until `budget_s` is spent, `least` times anyway, `most` times at most."""

    warm: int
    least: int
    most: int
    budget_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Sides are of square images, in pixels; tokens are those that are written.

    batches: of stage 1, at most eight; graph_batches: with CUDA graphs.
    frames: of a clip; a batch of as many images must be among the batches of stage 1 and of Florence-2, which see a
        clip frame by frame.
    usual_tokens, usual_side: what the cascade's latency is computed with, of Florence-2 and of Qwen3-VL.
    peak_side: of the matrices whose product gives the card's peak.
    """

    sides: tuple[int, ...]
    batches: tuple[int, ...]
    graph_batches: tuple[int, ...]
    florence_side: int
    florence_batches: tuple[int, ...]
    florence_tokens: tuple[int, ...]
    usual_tokens: int
    qwen_sides: tuple[int, ...]
    qwen_batches: tuple[int, ...]
    usual_side: int
    thought_tokens: int
    frames: int
    peak_side: int
    effort: Effort


FULL = Plan(
    sides=(224, 256, 512),
    batches=(1, 2, 4, 8, 16, 32, 64),
    graph_batches=(1, 2, 4, 8),  # where launching kernels takes longer than running them
    florence_side=768,
    florence_batches=(1, 4, 8),
    florence_tokens=(32, 64, 96),
    usual_tokens=64,  # three signs, as profiles/flops.yaml has it
    qwen_sides=(256, 512, 768, 1024),
    qwen_batches=(1, 8),
    usual_side=512,
    thought_tokens=128,
    frames=8,
    peak_side=8192,
    effort=Effort(warm=3, least=5, most=50, budget_s=1.5),
)
TINY = Plan(
    sides=(32, 48, 64),
    batches=(1, 2),
    graph_batches=(1,),
    florence_side=64,
    florence_batches=(1, 2),
    florence_tokens=(2, 3),
    usual_tokens=3,
    qwen_sides=(64, 96),
    qwen_batches=(1, 2),
    usual_side=64,
    thought_tokens=4,
    frames=2,
    peak_side=256,
    effort=Effort(warm=1, least=3, most=3, budget_s=0.0),
)
