"""The origin of a request."""

from dataclasses import dataclass

from roadwork_serve.journal.record import Origin


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Metadata of a request beside its file."""

    #: Interface through which the request came.
    origin: Origin = "handle"
    #: Name of the API key; empty without one.
    caller: str = ""
    #: Group of the request, such as a camera or a trip: an A/B test assigns it to one arm, and training keeps it in one
    #: split. None if the request is a group of its own.
    key: str | None = None
    #: Name of the file as the client sent it, printable; empty if it sent none.
    filename: str = ""
