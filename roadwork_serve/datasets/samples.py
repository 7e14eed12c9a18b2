"""Labelled photos and clips."""

from dataclasses import dataclass
from typing import Any

from roadwork_serve.schema import MediaKind


@dataclass(frozen=True, slots=True)
class SampleMetadata:
    """The label of a file and everything else known about it before it is classified."""

    name: str
    kind: MediaKind
    #: Whether the file shows active road work.
    label: bool
    #: True when annotators could not decide; the item is classified but left out of every metric.
    ignore: bool = False
    #: Seed of a rendered scene; None for other files.
    seed: int | None = None
    #: Rendered scenes only: the cheapest stage that can know the label.
    needs: str | None = None
    #: Rendered scenes only: the kind of activity shown, such as "working" or "parked".
    activity: str | None = None
    tags: tuple[str, ...] = ()
    #: Files of one group, such as the frames of one drive, are never split between training and validation.
    group: str = ""
    source: str = ""
    licence: str = ""
    #: Looks like road work and is none.
    hard_negative: bool = False
    #: True when no person labelled the file and `label` is the decision of the full cascade.
    pseudo_labeled: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """A labelled file with its encoded bytes."""

    metadata: SampleMetadata
    data: bytes
    #: Ground truth of a rendered scene (`testbed.scenes.truth.Truth`); None for other files.
    truth: Any = None
