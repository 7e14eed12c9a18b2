"""Pages of journal entries, the newest first. A page looks at a bounded number of entries, however rare a match is."""

from dataclasses import dataclass, replace

from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.paging import Position
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.journal.store import Store

SEARCHED = 10_000  # entries that a page looks at


@dataclass(frozen=True, slots=True)
class SearchPage:
    """A page of entries."""

    rows: list[JournalRow]
    #: Where the next page begins; None if this page reached the end of the journal.
    next: Position | None


def search(store: Store, where: Filter, limit: int, after: Position | None = None) -> SearchPage:
    """Return the newest selected entries behind a position. Raises JournalDown.

    A page that is short and has a next one has looked at `SEARCHED` entries without finding enough.
    """
    horizon, since_s = store.position_after(after, SEARCHED), where.since_s
    if horizon is not None and since_s is not None and since_s > horizon.created_at_s:
        horizon = None  # nothing beyond it is wanted
    if horizon is not None:
        where = replace(where, since_s=horizon.created_at_s)
    rows = list(store.find(where, limit + 1, newest_first=True, after=after))
    if len(rows) > limit:
        last = rows[limit - 1].prediction
        return SearchPage(rows[:limit], Position(last.created_at_s, last.id))
    return SearchPage(rows, None if horizon is None else Position(horizon.created_at_s, ""))
