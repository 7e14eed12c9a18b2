"""A generated picture, and the interface of the generators that make them."""

from dataclasses import dataclass
from typing import Protocol

from roadwork_serve.testbed.synthesis.prompts import ImagePrompt


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """A generated picture with what is known of it."""

    jpeg: bytes
    #: Seed that it was generated with.
    seed: int
    tags: tuple[str, ...]
    #: Prompt given to the model; empty when there is no model.
    prompt: str = ""
    #: Negative prompt given to the model; empty when there is no model.
    negative_prompt: str = ""
    #: Pictures that start from the same photo are one group and are never split.
    group: str = ""
    #: Name of the photo that it starts from; empty for none.
    start: str = ""


class ImageGenerator(Protocol):
    """Generates pictures from prompts."""

    @property
    def name(self) -> str:
        """Name that it is chosen by."""
        ...

    @property
    def model(self) -> str:
        """Folder or hub id of its weights."""
        ...

    @property
    def licence(self) -> str:
        """Licence of the pictures."""
        ...

    def generate(self, prompt: ImagePrompt) -> GeneratedImage:
        """Generate the picture, always the same for the same prompt. Raises ModelError."""
        ...
