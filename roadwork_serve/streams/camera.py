"""Cameras: each gives its newest picture when asked, and says how old it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

from roadwork_serve.errors import ConfigError, RoadworkError

SCHEMES = ("http", "https", "rtsp", "rtsps")


class CameraLost(RoadworkError):
    """The camera gives no pictures now. It may again later."""

    slug = "camera-lost"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, or a short clip, of a camera."""

    #: When it arrived, in seconds since 1970.
    at_s: float
    name: str
    data: bytes
    #: Seconds that it is behind the newest of its camera.
    lag_s: float = 0.0


class Camera(Protocol):
    """A camera that is open. Its methods block and are called by one thread at a time."""

    #: Pictures that it left out although each should count.
    dropped: int
    #: Whether each picture should count, and not only the newest at even times.
    every_counts: bool

    def newest(self, wait_s: float) -> Picture | None:
        """Return the newest picture that was not returned yet; None if none comes in time. Raises CameraLost."""
        ...

    def close(self) -> None:
        """End its processes and connections."""
        ...


@dataclass(frozen=True, slots=True)
class Address:
    """A camera's URL or folder."""

    url: str | None = None
    folder: Path | None = None

    @property
    def name(self) -> str:
        """The address, without a user and a password."""
        if self.url is None:
            return str(self.folder)
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def camera_address(text: str) -> Address:
    """Return the address in a text. Raises ConfigError if it is neither the URL of a stream nor a folder."""
    scheme, separator, _ = text.partition("://")
    if separator:
        if scheme.lower() not in SCHEMES:
            raise ConfigError(f"a stream's URL begins with {', '.join(f'{each}://' for each in SCHEMES)}, not {scheme}")
        try:
            parts = urlsplit(text)
            if parts.hostname and parts.port != 0:
                return Address(text)
        except ValueError:
            pass
        raise ConfigError("the URL has no valid host and port")
    if Path(text).is_dir():
        return Address(folder=Path(text))
    if text.startswith("/dev/"):
        raise ConfigError(
            f"devices are not read; send {text} as a stream, for example with `ffmpeg -f v4l2 -i {text} -f mpegts "
            "-listen 1 http://127.0.0.1:8090`, and watch that URL"
        )
    raise ConfigError(f"{text} is no folder and no URL of a stream ({', '.join(SCHEMES)})")
