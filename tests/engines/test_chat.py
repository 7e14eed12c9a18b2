from typing import Any

import pytest
from PIL import Image

from roadwork_serve.engines.chat import chat_text, end_of_reasoning, metadata, reasoning_stop_tokens, token_id
from roadwork_serve.engines.vlm import NO, YES, Prompt


def test_reasoning_is_closed_as_its_template_opened_it() -> None:
    assert end_of_reasoning("<|im_start|>assistant\n<think>\n") == "</think>\n\n"
    assert end_of_reasoning("<|im_start|>assistant\n") == "\n\nAnswer:"


class Words:
    """A tokenizer with a vocabulary of two tokens."""

    unk_token_id, eos_token_id = 0, 3

    def convert_tokens_to_ids(self, token: str) -> int:
        return {"</think>": 7}.get(token, 0)


@pytest.mark.parametrize(("eos", "wanted"), [(5, {3, 5, 7}), ([5, 6], {3, 5, 6, 7}), (None, {3, 7})])
def test_reasoning_ends_at_every_end_token_of_the_model(eos: int | list[int] | None, wanted: set[int]) -> None:
    assert reasoning_stop_tokens(Words(), eos) == wanted


def test_a_token_that_the_vocabulary_lacks_is_none() -> None:
    assert token_id(Words(), "</think>") == 7
    assert token_id(Words(), "<im_col>") is None


def test_frames_keep_their_times_to_the_millisecond() -> None:
    fields = metadata(Prompt("", (), (0.0, 0.4, 1.25)))
    assert [index / fields["fps"] for index in fields["frames_indices"]] == [0.0, 0.4, 1.25]
    assert fields["total_num_frames"] == 1251


def test_yes_and_no_share_no_spelling() -> None:
    assert not set(YES) & set(NO)


class Template:
    """A processor that returns what it was called with."""

    def __init__(self, chat_template: str) -> None:
        self.chat_template = chat_template

    def apply_chat_template(self, messages: list[dict[str, Any]], **settings: object) -> Any:
        return [part["type"] for part in messages[0]["content"]], settings.get("enable_thinking")


def test_a_template_that_can_think_is_told_whether_to() -> None:
    """Qwen3.5's template opens a thought unless it is told not to."""
    prompt = Prompt("Is there?", (Image.new("RGB", (8, 8)),))
    for thinking in (False, True):
        switchable: Any = chat_text(Template("{% if enable_thinking %}"), prompt, thinking)
        plain: Any = chat_text(Template("plain"), prompt, thinking)
        assert (switchable[1], plain[1]) == (thinking, None)


def test_the_question_comes_after_the_picture_unless_it_is_to_come_first() -> None:
    photo = Prompt("Is there?", (Image.new("RGB", (8, 8)),))
    clip = Prompt("Is there?", photo.images, (0.0,))

    def order(prompt: Prompt, question_first: bool) -> list[str]:
        text: Any = chat_text(Template(""), prompt, False, question_first)
        return text[0]

    assert order(photo, False) == ["image", "text"]
    assert order(photo, True) == ["text", "image"]
    assert order(clip, True) == ["text", "video"]
