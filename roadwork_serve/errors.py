"""The tree of errors. Each says what was wrong and what to do about it.

At the HTTP edge an error becomes an RFC 9457 problem document: `status` and `slug`
belong to the class, the message to the case.
"""


class RoadworkError(Exception):
    """Base of every error this project raises on purpose."""

    status = 500
    slug = "internal"
    title = "Something went wrong inside the server"


class BadRequest(RoadworkError):
    """The request cannot be read: wrong base64, a field missing, a deadline that makes no sense."""

    status = 400
    slug = "bad-request"
    title = "The request cannot be read"


class MediaError(RoadworkError):
    """Base of what can be wrong with a photo or a clip."""

    status = 422
    slug = "media"
    title = "The file cannot be used"


class UnsupportedMedia(MediaError):
    """The bytes are none of the formats that are read, whatever the name or header says."""

    status = 415
    slug = "unsupported-media"
    title = "The file is of no supported format"


class MediaTooLarge(MediaError):
    """A limit on bytes, pixels, frames or seconds is passed.

    Of a photo nothing was decoded; of a clip a few frames may have been, when they are larger than its header says.
    """

    status = 413
    slug = "media-too-large"
    title = "The file is larger than the server accepts"


class BrokenMedia(MediaError):
    """Empty, truncated or damaged media, or a clip with no frames."""

    status = 422
    slug = "broken-media"
    title = "The file is damaged or empty"


class Overloaded(RoadworkError):
    """The queues are full. `retry_after_s` says when to come back."""

    status = 503
    slug = "overloaded"
    title = "The server is busy"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(RoadworkError):
    """The stages are still loading their models; no request is accepted before all are warm."""

    status = 503
    slug = "not-ready"
    title = "The server is still starting"


class DeadlineExceeded(RoadworkError):
    """The deadline passed before any stage could speak."""

    status = 504
    slug = "deadline"
    title = "The deadline passed before an answer was found"


class StageFailed(RoadworkError):
    """A stage could not judge: its process died, its model raised, or it is not there."""

    status = 503
    slug = "stage-failed"
    title = "A stage of the cascade failed"


class StageLost(StageFailed):
    """A call got no answer: the process that had it died or fell silent. Another may do better."""


class StageDown(StageFailed):
    """The stage is not asked at the moment: it is being restarted, or rests after repeated failures."""


class NoOpinion(StageFailed):
    """Every stage that was asked failed or abstained, so there is nothing to answer with."""

    slug = "no-opinion"
    title = "No stage could answer"


class PolicyRefused(RoadworkError):
    """A policy that was sent makes no sense, or not here. The one in force stays."""

    status = 422
    slug = "policy-refused"
    title = "The policy is refused"


class PolicyConflict(RoadworkError):
    """A version that stands for another policy already, or nothing to go back to. The one in force stays."""

    status = 409
    slug = "policy-conflict"
    title = "The policy cannot come into force"


class ConfigError(RoadworkError):
    """A profile, policy or setting does not make sense; the message names the line to mend."""

    slug = "config"
    title = "The configuration does not make sense"


class ModelError(RoadworkError):
    """A checkpoint is missing, gated, of another architecture, or does not fit."""

    slug = "model"
    title = "A model cannot be loaded"


class Unauthorised(RoadworkError):
    """Keys are in use and the request brought none, or one that is not known."""

    status = 401
    slug = "unauthorised"
    title = "A key is needed"


class Forbidden(RoadworkError):
    """The key is known and may not do this, or nobody may as the server is set up."""

    status = 403
    slug = "forbidden"
    title = "This is not allowed"


class NotFound(RoadworkError):
    """What is asked for by its name is not there, or no longer."""

    status = 404
    slug = "not-found"
    title = "This is not there"


class RateLimited(RoadworkError):
    """The key has sent more requests than it may. `retry_after_s` says when to come back."""

    status = 429
    slug = "rate-limited"
    title = "The key has sent too many requests"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class HeadersTooLarge(RoadworkError):
    """The headers of the request are too many or too long."""

    status = 431
    slug = "headers-too-large"
    title = "The headers are larger than the server accepts"


class JournalDown(RoadworkError):
    """The journal's database cannot be reached, or takes nothing. What was to be written is to be sent again."""

    status = 503
    slug = "journal-down"
    title = "The journal cannot be used"
