"""Thumbnails of journal entries, with files decoded in the confined processes."""

import asyncio
from io import BytesIO

import pytest
from PIL import Image

from roadwork_serve.api.media_decoder import MediaDecoder
from roadwork_serve.api.thumbnail import SIDE, ThumbnailMaker
from roadwork_serve.errors import BrokenMedia
from roadwork_serve.media import Clip, Photo
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.testbed import scenes


async def test_photos_and_clips_get_small_jpegs_in_their_shape():
    decoder = MediaDecoder(load_profile("mini"))
    at_once = most = 0

    async def read(data: bytes, deadline_s: float) -> Photo | Clip:
        nonlocal at_once, most
        most = max(most, at_once := at_once + 1)
        try:
            return await decoder.read(data, deadline_s)
        finally:
            at_once -= 1

    async def make(data: bytes) -> bytes:
        async def load() -> bytes:
            assert at_once == 0, "files that wait are not in memory"
            return data

        return await maker.make(load)

    maker, wide = ThumbnailMaker(read), scenes.photo(101)
    try:
        photo, clip = await asyncio.gather(make(wide.jpeg()), make(scenes.clip(7).mp4()))
        with pytest.raises(BrokenMedia):
            await make(wide.jpeg()[:500])
    finally:
        await decoder.aclose()
    small = Image.open(BytesIO(photo))
    assert (small.format, max(small.size)) == ("JPEG", SIDE)
    assert small.width / small.height == pytest.approx(wide.image.width / wide.image.height, rel=0.02)
    mean = [sum(image.resize((1, 1)).getpixel((0, 0))) for image in (small, wide.image)]  # type: ignore[arg-type]
    assert mean[0] == pytest.approx(mean[1], abs=12), "it shows the photo"
    assert Image.open(BytesIO(clip)).format == "JPEG"
    assert most == 1, "traffic keeps the other processes"
