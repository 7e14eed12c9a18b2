"""Chat templates: a prompt as text, and the text that ends the reasoning before an answer."""

from collections.abc import Callable
from typing import Any

from roadwork_serve.engines.vlm import Prompt

THINK, END_OF_THINKING = "<think>", "</think>"
ANSWER = "\n\nAnswer:"  # leads a model without thinking tags to its answer


def chat_text(processor: Any, prompt: Prompt, thinking: bool, question_first: bool = False) -> str:
    """Return the prompt as text.

    Args:
        processor: Processor of the model, which holds its chat template.
        prompt: The prompt.
        thinking: The model reasons before it answers. Templates that can open the reasoning, or skip it, are told.
        question_first: Put the question before the image or clip. Prompts with the same question then share a prefix,
            which an engine with prefix caching computes once. With the question last, different questions about an
            image do.
    """
    kind = "video" if prompt.timestamps_s else "image"
    switch = {"enable_thinking": thinking} if "enable_thinking" in processor.chat_template else {}
    content = [{"type": kind}, {"type": "text", "text": prompt.question}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content[::-1] if question_first else content}],
        add_generation_prompt=True,
        tokenize=False,
        **switch,
    )


def end_of_reasoning(text: str) -> str:
    """Return the text that ends the reasoning after this prompt and leads to the answer.

    It is the closing tag if the chat template opens one, else a line that asks for the answer.
    """
    return f"{END_OF_THINKING}\n\n" if text.rstrip().endswith(THINK) else ANSWER


def reasoning_stop_tokens(tokenizer: Any, eos: int | list[int] | None) -> frozenset[int]:
    """Return the tokens that end the reasoning.

    Args:
        tokenizer: Tokenizer of the model.
        eos: End-of-sequence tokens of the generation config.
    """
    named = [*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id, token_id(tokenizer, END_OF_THINKING)]
    return frozenset(token for token in named if token is not None)


def token_id(tokenizer: Any, token: str) -> int | None:
    """Return the id of a token of the vocabulary; None if it has no such token."""
    found = tokenizer.convert_tokens_to_ids(token)
    return None if found is None or found == tokenizer.unk_token_id else int(found)


def encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Return a function from text to token ids, without special tokens."""
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


def metadata(prompt: Prompt) -> dict[str, Any]:
    """Return video metadata with exact timestamps: frame numbers in a nominal video of 1000 frames per second."""
    stamps = [round(1000 * t) for t in prompt.timestamps_s]
    total = stamps[-1] + 1
    return {"fps": 1000.0, "frames_indices": stamps, "total_num_frames": total, "duration": total / 1000}
