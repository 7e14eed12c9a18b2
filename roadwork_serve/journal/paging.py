"""Positions in the journal, which continue a listing where an earlier page ended."""

import math
from typing import NamedTuple, Self

from sqlalchemy import ColumnElement

from roadwork_serve.errors import BadRequest
from roadwork_serve.journal.tables import predictions


class Position(NamedTuple):
    """The place of a prediction in the order of their times. An empty id comes before all others of its time."""

    #: Seconds since 1970.
    created_at_s: float
    id: str

    @classmethod
    def from_cursor(cls, cursor: str) -> Self:
        """Return the position that a cursor names. Raises BadRequest."""
        time, separator, name = cursor.partition("_")
        try:
            seconds = float(time)
        except ValueError:
            seconds = math.nan
        if not separator or not math.isfinite(seconds):
            raise BadRequest("cursor is not one of this journal; send the next_cursor of a page, or none for the first")
        return cls(seconds, name)

    @property
    def cursor(self) -> str:
        """The position as text, for clients."""
        return f"{self.created_at_s!r}_{self.id}"

    def beyond(self, newest_first: bool) -> ColumnElement[bool]:
        """Return the condition for predictions behind this position in the order of a listing."""
        time, key = predictions.c.created_at_s, predictions.c.id
        if newest_first:
            return (time < self.created_at_s) | ((time == self.created_at_s) & (key < self.id))
        return (time > self.created_at_s) | ((time == self.created_at_s) & (key > self.id))
