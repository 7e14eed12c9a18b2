"""Small pictures of journal entries. The files are decoded in the confined processes, like those of requests."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from PIL import Image

from roadwork_serve.media import Clip, Photo
from roadwork_serve.media.photo import encode_jpeg, fit

SIDE = 256  # pixels of the longer side
_QUALITY = 80
_TIME_S = 10.0  # until a thumbnail is given up
_AT_ONCE = 1  # so that pages of thumbnails leave the other decoding processes to traffic


class ThumbnailMaker:
    """Makes JPEGs of photos, and of the middle frame of clips, a few at a time.

    Args:
        read: Decodes a file by a deadline on the clock of `time.monotonic()`; see `MediaDecoder.read`.
    """

    def __init__(self, read: Callable[[bytes, float], Awaitable[Photo | Clip]]) -> None:
        self._read = read
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def make(self, load: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return a JPEG of at most `SIDE` pixels on a side.

        Args:
            load: Loads the file. It is called when its turn has come, so that files do not wait in memory.

        Raises the errors of `load` and of `MediaDecoder.read`.
        """
        async with self._slots:
            media = await self._read(await load(), time.monotonic() + _TIME_S)
        return await asyncio.to_thread(_jpeg, media)


def _jpeg(media: Photo | Clip) -> bytes:
    """Return the thumbnail of stage 1, which is a square of raw pixels, in the shape of the picture."""
    thumbs = media.thumbs
    square = Image.fromarray(thumbs[len(thumbs) // 2])
    return encode_jpeg(square.resize(fit((max(1, media.width), max(1, media.height)), SIDE)), _QUALITY)
