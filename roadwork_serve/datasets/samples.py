"""Labelled photos and clips to be judged: what is known of each, and those of the test track."""

from dataclasses import dataclass
from typing import Any

from roadwork_serve.schema import MediaKind


@dataclass(frozen=True, slots=True)
class SampleMetadata:
    """What is known of a labelled file beforehand.

    label: active road work. scored: False where people could not tell; judged, but left out of every number.
    seed, needs, activity, tags: of a rendered scene, see `scenes.truth.Truth`.
    group: files that must never be parted, such as the frames of one drive.
    hard_negative: looks like road work and is none.
    taught: nobody has looked: the label is what all stages together said.
    """

    name: str
    kind: MediaKind
    label: bool
    scored: bool = True
    seed: int | None = None
    needs: str | None = None
    activity: str | None = None
    tags: tuple[str, ...] = ()
    group: str = ""
    source: str = ""
    licence: str = ""
    hard_negative: bool = False
    taught: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """A labelled file, its encoded bytes, and of a rendered scene everything that is true of it."""

    about: SampleMetadata
    data: bytes
    truth: Any = None
