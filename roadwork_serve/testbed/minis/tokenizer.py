"""A byte-level BPE tokenizer small enough for a miniature, with the special tokens of a model's family."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from roadwork_serve.engines.transformers import NO, YES
from roadwork_serve.testbed.minis.describe import clip_reasoning, scene_reasoning
from roadwork_serve.testbed.minis.prompts import CLIP_QUESTION, QUESTION, THINKING_QUESTION
from roadwork_serve.testbed.scenes.truth import Truth

VOCABULARY = 640
QWEN_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>", "<think>", "</think>",
)  # fmt: skip
MOLMO_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image|>", "<|video|>", "<im_start>", "<im_end>", "<im_patch>",
    "<im_col>", "<low_res_im_start>", "<frame_start>", "<frame_end>", "<im_low>",
)  # fmt: skip


def train_tokenizer(special: Sequence[str], truths: Sequence[Truth]) -> PreTrainedTokenizerFast:
    """Train a tokenizer on the prompts, the reasoning texts of these scenes and the answers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    asked = [QUESTION, THINKING_QUESTION, CLIP_QUESTION] * 50
    answers = [space + word + end for word in (*YES, *NO) for space in ("", " ") for end in ("", "\n")]
    frame = ["user\n", "assistant\n", "system\n", "\n\n", "\n"] * 50
    reasonings = [form(truth) for truth in truths for form in (scene_reasoning, clip_reasoning)]
    tokenizer.train_from_iterator([*asked, *answers * 50, *frame, *reasonings], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106 - a special token
        pad_token="<|endoftext|>",  # noqa: S106 - a special token
        padding_side="left",
        model_max_length=4096,
    )
