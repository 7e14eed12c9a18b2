from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.testbed.synthesis.prompts import ELEMENTS, LOOKALIKES, TAGS, image_prompt, image_prompts

SEEDS = st.integers(0, 2**32)
PHRASES = {name: [text.split(",")[0] for text in texts] for name, texts in ELEMENTS.items()}


def test_classes_elements_and_lookalikes_are_balanced() -> None:
    run = image_prompts(3, 400)
    assert sum(each.label for each in run) == 200
    assert Counter(each.element for each in run if each.label) == dict.fromkeys(ELEMENTS, 50)
    traps = Counter(each.lookalike for each in run if not each.label)
    assert traps == {None: 100, **dict.fromkeys(LOOKALIKES, 20)}


@given(SEEDS, st.integers(0, 500))
def test_a_positive_prompt_has_exactly_one_element_and_a_negative_none(seed: int, index: int) -> None:
    each = image_prompt(seed, index)
    named = [name for name, texts in ELEMENTS.items() if any(text in each.prompt for text in texts)]
    trapped = [name for name, texts in LOOKALIKES.items() if any(text in each.prompt for text in texts)]
    assert named == ([each.element] if each.label else [])
    assert trapped == ([each.lookalike] if each.lookalike else [])
    assert ("no road works" in each.prompt) == (not each.label)
    assert not (each.element and each.lookalike)


@given(SEEDS, st.integers(0, 500))
def test_the_negative_prompt_never_excludes_the_wanted_element(seed: int, index: int) -> None:
    each = image_prompt(seed, index)
    forbidden = {"cone": "traffic cones", "barrier": "barriers", "worker": "road workers", "machine": "construction"}
    for name, words in forbidden.items():
        assert (words in each.negative_prompt) == (name != each.element and each.lookalike is None) or (
            each.lookalike is not None and words == "road workers"
        )


@given(SEEDS, st.integers(0, 300), st.integers(1, 40))
def test_a_longer_run_begins_with_the_prompts_of_a_shorter_one(seed: int, index: int, more: int) -> None:
    assert image_prompt(seed, index) == image_prompt(seed, index)
    assert image_prompts(seed, more) == image_prompts(seed, more + 3)[:more]


def test_runs_of_different_seeds_differ() -> None:
    assert not {each.seed for each in image_prompts(1, 100)} & {each.seed for each in image_prompts(2, 100)}


@given(SEEDS, st.integers(0, 500))
def test_prompts_fit_the_context_of_sdxl(seed: int, index: int) -> None:
    """SDXL reads 77 tokens including start and end; words and commas are one token each, rare words two."""
    each = image_prompt(seed, index)
    words = each.prompt.replace(",", " ,").replace(".", " .").split()
    assert len(words) <= 66
    assert len(each.tags) == len(TAGS) + bool(each.element or each.lookalike)
