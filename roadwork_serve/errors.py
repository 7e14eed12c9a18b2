"""The errors of this project. Each message states the problem and the cure.

The HTTP API turns an error into an RFC 9457 problem document: `status`, `slug` and `title` come from the class, and
`detail` is the message.
"""


class RoadworkError(Exception):
    """The base of every error that this project raises on purpose."""

    status = 500
    slug = "internal"
    title = "Something went wrong inside the server"


class BadRequest(RoadworkError):
    """The request is malformed: invalid base64, a missing field, an invalid deadline."""

    status = 400
    slug = "bad-request"
    title = "The request cannot be read"


class MediaError(RoadworkError):
    """The base of errors in a photo or a clip."""

    status = 422
    slug = "media"
    title = "The file cannot be used"


class UnsupportedMedia(MediaError):
    """The bytes are in no supported format, whatever the name or header states."""

    status = 415
    slug = "unsupported-media"
    title = "The format of the file is not supported"


class UnsupportedEncoding(RoadworkError):
    """The body is compressed, or encoded in another way that its Content-Encoding names."""

    status = 415
    slug = "unsupported-encoding"
    title = "The encoding of the body is not supported"


class MediaTooLarge(MediaError):
    """The file exceeds a limit on bytes, pixels, frames or seconds.

    Nothing of a photo was decoded. A few frames of a clip may have been, if they are larger than its header states.
    """

    status = 413
    slug = "media-too-large"
    title = "The file is larger than the server accepts"


class BrokenMedia(MediaError):
    """The media is empty, truncated or damaged, or a clip has no frames."""

    status = 422
    slug = "broken-media"
    title = "The file is damaged or empty"


class SlowUpload(RoadworkError):
    """The body arrives at less than the least rate, so it was not read to its end."""

    status = 408
    slug = "slow-upload"
    title = "The body arrives too slowly"


class Overloaded(RoadworkError):
    """The queues are full. `retry_after_s` is the time to wait before a retry."""

    status = 503
    slug = "overloaded"
    title = "The server is busy"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        #: Seconds to wait before a retry.
        self.retry_after_s = retry_after_s


class NotReady(RoadworkError):
    """The stages are still loading their models. No request is accepted before all required ones are warm."""

    status = 503
    slug = "not-ready"
    title = "The server is still starting"


class DeadlineExceeded(RoadworkError):
    """The deadline passed before any stage returned a prediction."""

    status = 504
    slug = "deadline"
    title = "The deadline passed before there was a verdict"


class StageFailed(RoadworkError):
    """A stage returned no prediction: its process died, its model raised, or it is not deployed."""

    status = 503
    slug = "stage-failed"
    title = "A stage of the cascade failed"


class StageLost(StageFailed):
    """A call got no response: its process died or hangs. Another replica may answer."""


class StageDown(StageFailed):
    """The stage is unavailable: it is restarting, or its circuit breaker is open."""


class NoOpinion(StageFailed):
    """Every stage that ran failed or abstained, so there is no prediction."""

    slug = "no-opinion"
    title = "No stage returned a prediction"


class PolicyRefused(RoadworkError):
    """A policy is invalid, or cannot run on this server. The active policy stays."""

    status = 422
    slug = "policy-refused"
    title = "The policy is rejected"


class PolicyConflict(RoadworkError):
    """The version names a different policy already, or there is no earlier revision. The active policy stays."""

    status = 409
    slug = "policy-conflict"
    title = "The policy cannot be activated"


class ConfigError(RoadworkError):
    """A profile, policy or setting is invalid; the message names the entry to correct."""

    slug = "config"
    title = "The configuration is invalid"


class ModelError(RoadworkError):
    """A checkpoint is missing, gated, of another architecture, or too large."""

    slug = "model"
    title = "A model cannot be loaded"


class Unauthorised(RoadworkError):
    """API keys are required, and the request has none or an unknown one."""

    status = 401
    slug = "unauthorised"
    title = "An API key is required"


class Forbidden(RoadworkError):
    """The API key has no permission for this, or the server is configured so that nobody has."""

    status = 403
    slug = "forbidden"
    title = "This is not allowed"


class NotFound(RoadworkError):
    """There is nothing with this name, or no longer."""

    status = 404
    slug = "not-found"
    title = "Not found"


class RateLimited(RoadworkError):
    """The API key exceeds its rate limit. `retry_after_s` is the time to wait before a retry."""

    status = 429
    slug = "rate-limited"
    title = "The key has sent too many requests"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        #: Seconds to wait before a retry.
        self.retry_after_s = retry_after_s


class HeadersTooLarge(RoadworkError):
    """The request has too many or too long headers."""

    status = 431
    slug = "headers-too-large"
    title = "The headers are larger than the server accepts"


class JournalDown(RoadworkError):
    """The journal's database is unreachable or rejects writes. The records must be sent again."""

    status = 503
    slug = "journal-down"
    title = "The journal is unavailable"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        #: Name of the operating system's error, such as ENOSPC, if there is one.
        self.code = code


class ServerUnreachable(RoadworkError):
    """A client got no response: nothing listens at the URL, or the connection broke or fell silent."""

    status = 503
    slug = "unreachable"
    title = "The server cannot be reached"


class NotARoadworkServer(RoadworkError):
    """A client got a response that no roadwork server sends; the URL may name another server, or a proxy answered."""

    status = 502
    slug = "not-roadwork"
    title = "The server does not speak this protocol"
