"""A finding of `roadwork doctor`."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact about this machine, or what is wrong with it and what to do."""

    topic: str
    #: A note does not keep a server from running; a problem may.
    level: Level
    text: str
