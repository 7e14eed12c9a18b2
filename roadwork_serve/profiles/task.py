"""The task of a server: the question, the two labels, and the text of signs that is evidence for or against."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from roadwork_serve.errors import ConfigError
from roadwork_serve.schema import UNCLEAR, Label
from roadwork_serve.validation import explain

DEFAULT = "roadwork"
_BUNDLED = resources.files("roadwork_serve.profiles").joinpath("tasks")
_ANSWER = "Answer YES or NO."

#: Meaning of a sign's text: `begin` to `worker` are evidence for the positive label, `end` against it.
SignMeaning = Literal["begin", "closure", "detour", "worker", "end"]
SignLanguage = Literal["en-US", "en-GB", "de", "es", "fr", "it", "nl"]


def _phrase(text: str) -> str:
    if not any(letter.isascii() and letter.isalnum() for letter in text):
        raise ValueError("contain letters or digits of the Latin alphabet, which is all that signs are compared by")
    return text


Phrase = Annotated[str, AfterValidator(_phrase)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Examples(_Settings):
    """Examples of what has each label, as short noun phrases. Prompts name them, unless a prompt is given in full."""

    positive: tuple[str, ...] = Field(default=(), description="What counts, e.g. `a hole in the asphalt`.")
    negative: tuple[str, ...] = Field(default=(), description="What resembles it and does not count.")


class SignVocabulary(_Settings):
    """The text of signs that is evidence."""

    languages: tuple[SignLanguage, ...] = Field(
        default=(), description="Languages whose usual signs of road work are evidence. None by default."
    )
    phrases: dict[SignMeaning, tuple[Phrase, ...]] = Field(
        default_factory=dict,
        description="Further phrases by meaning. begin, closure, detour and worker are evidence for the positive "
        "label; end is evidence against it.",
    )
    ignored: tuple[Phrase, ...] = Field(default=(), description="Further phrases that make a sign count for nothing.")


class Task(_Settings):
    """The task of a server: a question about a photo or clip, and the labels for yes and no."""

    positive: Label = Field(description="Label if the answer is yes. A word of at most 16 letters, digits, - and _.")
    negative: Label = Field(description="Label if the answer is no.")
    description: str = Field(
        min_length=1, max_length=80, description="What the positive label stands for, e.g. `active road work`."
    )
    question: str = Field(
        min_length=1,
        max_length=2000,
        description="Question to the vision language models. `Answer YES or NO.` is added if it asks for neither.",
    )
    reasoning_question: str | None = Field(
        default=None, max_length=2000, description="Question to a stage that thinks. By default made from `question`."
    )
    clip_question: str | None = Field(
        default=None, max_length=2000, description="Question about a clip. By default `question`."
    )
    examples: Examples = Field(default=Examples(), description="Examples of both labels, for the prompts.")
    signs: SignVocabulary = Field(default=SignVocabulary(), description="Text of signs that is evidence.")

    @model_validator(mode="after")
    def _validate(self) -> Self:
        if self.positive == self.negative:
            raise ValueError(f"negative: both labels are {self.positive!r}; give each a name of its own")
        for field in ("positive", "negative"):
            if getattr(self, field) == UNCLEAR:
                raise ValueError(f"{field}: {UNCLEAR} is the label of people who cannot decide; use another word")
        return self

    @property
    def labels(self) -> tuple[Label, Label]:
        """The positive and the negative label."""
        return self.positive, self.negative

    def label(self, positive: bool) -> Label:
        """Return the label for yes or no."""
        return self.positive if positive else self.negative

    def prompt(self) -> str:
        """Return the question about a photo."""
        return _with_answer(self._with_examples(self.question))

    def reasoning_prompt(self) -> str:
        """Return the question for a model that thinks before its answer."""
        if self.reasoning_question is not None:
            return _with_answer(self.reasoning_question)
        question = self._with_examples(self.question).removesuffix(_ANSWER).rstrip()
        return f"{question} Think first, then answer YES or NO."

    def clip_prompt(self) -> str:
        """Return the question about a clip."""
        return self.prompt() if self.clip_question is None else _with_answer(self.clip_question)

    def _with_examples(self, question: str) -> str:
        """Return the question, followed by the examples."""
        question = question.strip()
        if self.examples.positive:
            question += f" What counts: {'; '.join(self.examples.positive)}."
        if self.examples.negative:
            question += f" What does not count: {'; '.join(self.examples.negative)}."
        return question


@cache
def default_task() -> Task:
    """Return the task of a profile that names none: active road work."""
    return load_task(DEFAULT)


def load_task(name_or_path: str) -> Task:
    """Return the task of this name or path. Raises ConfigError if there is none, or it is invalid."""
    return parse_task(_read(name_or_path), f"task {name_or_path}")


def parse_task(value: Any, origin: str = "task") -> Task:
    """Return the task that a profile holds: a name, a path, or a mapping that may extend either of them.

    Raises ConfigError naming the field.
    """
    if isinstance(value, Task):
        return value
    if isinstance(value, str):
        return load_task(value)
    if isinstance(value, Mapping) and "extends" in value:
        own = dict(value)
        base = own.pop("extends")
        if not isinstance(base, str):
            raise ConfigError(f"{origin}.extends is {base!r}; name a task or the path of one")
        value = load_task(base).model_dump() | own
    try:
        return Task.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {explain(error, Task, 'the whole task')}") from None


def _read(name_or_path: str) -> dict[str, Any]:
    if name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path:
        source = Path(name_or_path).expanduser()
        if not source.is_file():
            raise ConfigError(f"task {name_or_path}: there is no such file; give a path that exists")
    else:
        names = sorted(each.name.removesuffix(".yaml") for each in _BUNDLED.iterdir() if each.name.endswith(".yaml"))
        if name_or_path not in names:
            raise ConfigError(
                f"task {name_or_path!r} does not ship with the project; use {' or '.join(names)}, or a path ending in "
                ".yaml"
            )
        source = _BUNDLED.joinpath(f"{name_or_path}.yaml")
    try:
        mapping = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"task {name_or_path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(mapping, dict):
        raise ConfigError(f"task {name_or_path} holds a {type(mapping).__name__}; write a mapping of fields to values")
    return mapping


def _with_answer(question: str) -> str:
    """Return the question with the form of the answer, if it does not name it."""
    question = question.strip()
    return question if "YES" in question and "NO" in question else f"{question} {_ANSWER}"
