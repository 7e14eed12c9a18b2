import pytest

from roadwork_serve.engines.chat import end_of_reasoning, metadata, reasoning_stop_tokens, token_id
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
