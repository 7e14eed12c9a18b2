"""Filters of Ray Serve's logger in replicas."""

import logging

from roadwork_serve.errors import RoadworkError
from roadwork_serve.printable import make_logs_printable

_SERVE = "ray.serve"


def configure_logs() -> None:
    """Log text of others safely, and errors of callers as one line. A replica calls this when it starts."""
    logger = logging.getLogger(_SERVE)
    make_logs_printable(logger)
    if _shorten_foreseen not in logger.filters:
        logger.addFilter(_shorten_foreseen)


def _shorten_foreseen(record: logging.LogRecord) -> bool:
    """Turn the record of an error that this project raises on purpose into a line of level INFO without a traceback.

    Serve logs every error that a call by handle raises as a failure, with a traceback: also that a file is damaged.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, RoadworkError) and error.status != RoadworkError.status:
        record.msg, record.args = "%s: %s: %s", (record.getMessage(), error.title, error)
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
    return True
