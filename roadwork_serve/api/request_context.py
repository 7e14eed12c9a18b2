"""Who asked, and how."""

from dataclasses import dataclass

from roadwork_serve.journal.record import Origin


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What is known of a request beside its file.

    caller: name of the API key, empty without one. key: what an A/B test keeps on one side, and learning in one piece:
    a camera, a trip; None where each request is on its own.
    """

    origin: Origin = "handle"
    caller: str = ""
    key: str | None = None
