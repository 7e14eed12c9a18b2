"""Tasks: labels, prompts and signs, by name, by path and in a profile."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from roadwork_serve.errors import ConfigError
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.task import SignVocabulary, default_task, load_task, parse_task
from roadwork_serve.stages.sign_text import SignPhrases

OWN: dict[str, Any] = {
    "positive": "flooded", "negative": "dry", "description": "a flooded road", "question": "Is the road flooded?"
}  # fmt: skip


def test_a_profile_has_the_task_of_road_work_by_default() -> None:
    profile = load_profile("mini")
    assert profile.task == default_task() and profile.task.labels == ("roadwork", "none")
    assert all(spec.task is profile.task for spec in profile.stages.values())
    assert profile.task.reasoning_prompt() != profile.task.prompt() != profile.task.clip_prompt()


def test_a_question_gets_its_examples_and_the_form_of_the_answer() -> None:
    plain, shown = parse_task(OWN), parse_task(OWN | {"examples": {"positive": ["a pool"], "negative": ["a wet spot"]}})
    assert plain.prompt() == plain.clip_prompt() == "Is the road flooded? Answer YES or NO."
    assert shown.prompt() == (
        "Is the road flooded? What counts: a pool. What does not count: a wet spot. Answer YES or NO."
    )
    assert plain.reasoning_prompt() == "Is the road flooded? Think first, then answer YES or NO."
    asked = parse_task(OWN | {"question": "Flooded? YES or NO.", "clip_question": "Does it flood?"})
    assert asked.prompt() == "Flooded? YES or NO." and asked.clip_prompt() == "Does it flood? Answer YES or NO."


def test_a_task_is_a_file_a_name_or_fields_that_extend_either(tmp_path: Path) -> None:
    file = tmp_path / "flood.yaml"
    file.write_text(yaml.safe_dump(OWN))
    for given in (str(file), OWN, {"extends": str(file)}):
        profile = load_profile("mini", {"task": given})
        assert profile.task.label(True) == "flooded" and profile.stages["vlm"].task.label(False) == "dry"
    assert load_task("potholes").positive == "pothole"
    own = parse_task({"extends": "roadwork", "signs": {"languages": ["de"]}})
    assert own.prompt() == default_task().prompt() and own.signs.languages == ("de",)


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ("trees", "does not ship with the project; use potholes or roadwork"),
        ("/nowhere/task.yaml", "there is no such file"),
        (OWN | {"negative": "flooded"}, "both labels are 'flooded'"),
        (OWN | {"negative": "unclear"}, "people who cannot decide"),
        (OWN | {"positive": "A flood"}, "positive is 'A flood'"),
        ({"positive": "flooded"}, "negative is missing"),
        (OWN | {"signs": {"languages": ["en"]}}, "languages"),
        (OWN | {"signs": {"phrases": {"begin": ["!?"]}}}, "letters or digits"),
        ({"extends": 3}, "name a task"),
    ],
)
def test_an_invalid_task_names_the_field(task: object, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_task(task)
    with pytest.raises(ConfigError, match=problem):
        load_profile("mini", {"task": task})


@pytest.mark.parametrize(
    ("languages", "meanings"),
    [
        (("en-US",), ["begin", "neutral", "neutral", "neutral"]),
        (("en-GB",), ["neutral", "detour", "neutral", "neutral"]),
        (("de",), ["neutral", "neutral", "begin", "neutral"]),
        (("es", "de"), ["neutral", "neutral", "begin", "worker"]),
        ((), ["neutral"] * 4),
    ],
)
def test_signs_are_read_in_the_languages_of_the_task(languages: tuple[Any, ...], meanings: list[str]) -> None:
    known = SignPhrases(SignVocabulary(languages=languages))
    signs = ("UTILITY WORK AHEAD", "DIVERSION", "Baustelle", "HOMBRES TRABAJANDO")
    assert [known.meaning([sign]) for sign in signs] == meanings


def test_the_phrases_of_a_task_are_known_and_ignored_ones_are_not() -> None:
    known = SignPhrases(SignVocabulary(phrases={"begin": ("SCHLAGLÖCHER",), "end": ("REPAIRED",)}, ignored=("BAR",)))
    assert known.meaning(["Achtung", "Schlaglocher"]) == "begin"
    assert known.meaning(["SCHLAGLÖCHER", "REPAIRED"]) == "end"
    assert known.meaning(["BAR SCHLAGLÖCHER"]) == "neutral"
