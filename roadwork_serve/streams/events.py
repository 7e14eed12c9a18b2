"""Events of road work in a sequence of frames that does not end."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from roadwork_serve.drives.smoothing import WORKS, SmoothingModel
from roadwork_serve.errors import ConfigError

_MOST_SEEN = 12
_MOST_ELAPSED_S = 2.0  # a longer pause changes no belief, so that slow cameras and outages are no evidence


class Event(BaseModel):
    """A change, or a sign that road work goes on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="Names the road work: the same from its beginning to its end.")
    event: Literal["began", "ongoing", "ended"]
    source: str = Field(description="The camera, without the password in its URL.")
    at: AwareDatetime = Field(description="When the frame that showed it arrived.")
    began_at: AwareDatetime
    probability: float = Field(ge=0, le=1, description="Smoothed probability of road work at this time.")
    highest: float = Field(ge=0, le=1, description="Its highest value since the beginning.")
    seen: list[str] = Field(default_factory=list, description="What the stages recognized since the beginning.")


@dataclass(slots=True)
class EventDetector:
    """Tells when road work begins and ends. The filter is the forward half of `drives.smoothing`.

    Args:
        source: Name of the camera in the events.
        begin: Smoothed probability from which on there is road work.
        end: Smoothed probability up to which it has ended.
        every_s: Seconds from one `ongoing` to the next.
        model: Rates of change and weight of a frame.

    """

    source: str
    begin: float = 0.8
    end: float = 0.2
    every_s: float = 60.0
    model: SmoothingModel = field(default_factory=SmoothingModel)
    _state: np.ndarray = field(init=False)
    _at_s: float | None = field(default=None, init=False)
    _event: Event | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.end < self.begin <= 1:
            raise ConfigError(
                f"road work begins at {self.begin} and ends at {self.end}; the first must be above the second, "
                "and both from 0 to 1"
            )
        self._state = self.model.initial

    @property
    def probability(self) -> float:
        """Smoothed probability of road work at the last frame."""
        return float(self._state[WORKS])

    def resume(self, last: Event) -> None:
        """Go on after an event of an earlier run: what had not ended then goes on now."""
        if last.event != "ended":
            self._event, self._at_s = last, last.at.timestamp()
            self._state = np.array((1 - last.probability, last.probability))

    def update(self, at_s: float, probability: float | None, seen: Sequence[str] = ()) -> Iterator[Event]:
        """Yield the event that a frame causes, if any.

        Args:
            at_s: When it arrived, in seconds since 1970. A frame from before the last one counts as of its time.
            probability: Of road work, by the cascade; None if it has no opinion, which changes nothing.
            seen: What it recognized.
        """
        if probability is None:
            return
        elapsed_s = 0.0 if self._at_s is None else min(_MOST_ELAPSED_S, max(0.0, at_s - self._at_s))
        self._at_s = at_s = at_s if self._at_s is None else max(at_s, self._at_s)
        state = self._state @ self.model.transitions(np.array((elapsed_s,)))[0]
        ratio = self.model.log_ratios(np.array((probability,)))[0]
        state[WORKS] *= math.exp(ratio)
        self._state = state / state.sum()
        before, p = self._event, self.probability
        at = datetime.fromtimestamp(at_s, UTC)
        if before is None:
            if p >= self.begin:
                self._event = Event(
                    id=f"{round(at_s * 1000):x}", event="began", source=self.source, at=at, began_at=at, probability=p,
                    highest=p, seen=list(seen)[:_MOST_SEEN],
                )  # fmt: skip
                yield self._event
            return
        found = list(dict.fromkeys((*before.seen, *seen)))[:_MOST_SEEN]
        now = {"probability": p, "highest": max(p, before.highest), "seen": found}
        if p <= self.end:
            self._event = None
            yield before.model_copy(update=now | {"event": "ended", "at": at})
        elif (at - before.at).total_seconds() >= self.every_s:
            self._event = before.model_copy(update=now | {"event": "ongoing", "at": at})
            yield self._event
        else:
            self._event = before.model_copy(update={"highest": now["highest"], "seen": found})
