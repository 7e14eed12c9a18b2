"""Logs of replicas: foreseen errors as a line, others with their traceback, all of it safe."""

import logging
from collections.abc import Iterator

import pytest

from deployments import replica_logs
from roadwork_serve.errors import BrokenMedia, ConfigError, DeadlineExceeded, Overloaded, RoadworkError


class Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.levels: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
        self.levels.append(record.levelname)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Yield what is written under a logger that stands in for Ray Serve's."""
    name = "ray.serve.stand-in"
    monkeypatch.setattr(replica_logs, "_SERVE", name)
    logger, collector = logging.getLogger(name), Collector()
    logger.setLevel(logging.INFO)
    logger.addHandler(collector)
    replica_logs.configure_logs()
    replica_logs.configure_logs()
    yield collector
    logger.removeHandler(collector)
    logger.filters.clear()


def log_failure(error: Exception) -> None:
    """Log an error as Ray Serve does for a call by handle."""
    try:
        raise error
    except Exception:
        logging.getLogger(replica_logs._SERVE).exception("Request failed.")


@pytest.mark.parametrize(
    "error", [BrokenMedia("the JPEG is \x1b[31mtruncated"), Overloaded("256 items wait"), DeadlineExceeded("late")]
)
def test_a_foreseen_error_is_a_line_of_level_info(collector: Collector, error: RoadworkError) -> None:
    log_failure(error)
    (line,) = collector.lines
    assert line.startswith(f"Request failed.: {error.title}: ") and "\x1b" not in line and "\n" not in line
    assert collector.levels == ["INFO"]


@pytest.mark.parametrize("error", [ValueError("\x1b[31mbug"), RoadworkError("inside"), ConfigError("wrong")])
def test_another_error_keeps_its_traceback(collector: Collector, error: Exception) -> None:
    log_failure(error)
    (line,) = collector.lines
    assert "Traceback" in line and "\x1b" not in line
    assert collector.levels == ["ERROR"]


def test_records_of_other_loggers_below_are_safe(collector: Collector) -> None:
    logging.getLogger(f"{replica_logs._SERVE}.http").warning("%s", "\x9b31m\u202e")
    assert collector.lines == ["\ufffd\ufffd"]
