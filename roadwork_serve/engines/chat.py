"""A prompt as the text a model's own chat template makes of it, and how a thought is ended in that text."""

from collections.abc import Callable
from typing import Any

from roadwork_serve.engines.vlm import Prompt

THOUGHT, END_OF_THOUGHT = "<think>", "</think>"
ANSWER = "\n\nAnswer:"  # what a model that was not made to think is led to after thinking aloud


def chat_text(processor: Any, prompt: Prompt, thinking: bool) -> str:
    """The prompt as text, ready to be answered: picture or clip first, question last.

    What comes first is the same for all the questions about a picture, so an engine can reuse what it made of it.
    """
    kind = "video" if prompt.timestamps_s else "image"
    wants = {"enable_thinking": True} if thinking and "enable_thinking" in processor.chat_template else {}
    return processor.apply_chat_template(
        [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": prompt.question}]}],
        add_generation_prompt=True,
        tokenize=False,
        **wants,
    )


def end_of_turn(text: str) -> str:
    """What ends a thought that follows this text, up to the answer.

    A template that opens a thought has it closed as the family writes it; a model whose template opens none thinks
    aloud, and is led to its answer.
    """
    return f"{END_OF_THOUGHT}\n\n" if text.rstrip().endswith(THOUGHT) else ANSWER


def ends_of_thought(tokenizer: Any, eos: int | list[int] | None) -> frozenset[int]:
    """Tokens at which a thought is over. eos: of the model's generation config."""
    named = [*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id, token_id(tokenizer, END_OF_THOUGHT)]
    return frozenset(token for token in named if token is not None)


def token_id(tokenizer: Any, token: str) -> int | None:
    """The id of a token that the vocabulary has whole, else None."""
    found = tokenizer.convert_tokens_to_ids(token)
    return None if found is None or found == tokenizer.unk_token_id else int(found)


def encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Text to token ids, with nothing added."""
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


def metadata(prompt: Prompt) -> dict[str, Any]:
    """Timestamps as milliseconds in a make-believe video of 1000 frames a second, which keeps them exact."""
    stamps = [round(1000 * t) for t in prompt.timestamps_s]
    total = stamps[-1] + 1
    return {"fps": 1000.0, "frames_indices": stamps, "total_num_frames": total, "duration": total / 1000}
