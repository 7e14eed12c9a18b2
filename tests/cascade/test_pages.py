"""Pages of photos: made by the decoder, once, and only for stages that see them."""

import asyncio
import time
from dataclasses import replace

import pytest

from roadwork_serve.cascade.prediction import Item, Page, StageInput
from roadwork_serve.errors import BrokenMedia, Overloaded, StageFailed
from tests.cascade.fakes import InstantClient, batcher, item, prediction


class Maker:
    """Makes a page, and counts how often."""

    def __init__(self, error: Exception | None = None) -> None:
        self.deadlines: list[float] = []
        self.error = error
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, deadline_s: float) -> bytes:
        self.deadlines.append(deadline_s)
        await self.go.wait()
        if self.error:
            raise self.error
        return b"page"


class Seeing(InstantClient):
    """A client that keeps the items it gets."""

    def __init__(self, sees: StageInput) -> None:
        super().__init__(lambda _: prediction(1.0))
        self.sees = sees
        self.items: list[Item] = []

    async def predict(self, items):  # type: ignore[no-untyped-def]
        self.items += items
        return await super().predict(items)


def unopened(maker: Maker) -> Item:
    return replace(item(), images=(), page=Page(maker))


async def test_a_stage_that_sees_thumbnails_needs_no_page() -> None:
    maker, client = Maker(), Seeing("thumbs")
    await batcher(client).submit(unopened(maker))
    assert maker.deadlines == [] and client.items[0].images == ()


@pytest.mark.parametrize("sees", ["images", "both"])
async def test_stages_share_a_page_that_is_made_once_by_the_deadline(sees: StageInput) -> None:
    maker, first, second = Maker(), Seeing(sees), Seeing(sees)
    one = unopened(maker)
    await batcher(first).submit(one)
    await batcher(second).submit(replace(one, deadline_s=time.monotonic() + 900))
    assert maker.deadlines == [one.deadline_s]
    for client in (first, second):
        assert client.items[0].images == (b"page",) and client.items[0].page is None


async def test_an_item_with_images_is_sent_as_it_is() -> None:
    client, clip = Seeing("images"), replace(item(kind="clip"), images=(b"a", b"b"))
    await batcher(client).submit(clip)
    assert client.items == [clip]


async def test_a_photo_without_a_page_fails_the_stage_for_that_photo_alone() -> None:
    client = Seeing("images")
    stage = batcher(client)
    for _ in range(12):
        with pytest.raises(StageFailed, match="fake gets no image: the photo is damaged"):
            await stage.submit(unopened(Maker(BrokenMedia("the photo is damaged"))))
    assert stage.breaker == "closed" and client.items == []
    await stage.submit(item())


async def test_an_overloaded_decoder_is_no_failure_of_the_stage() -> None:
    with pytest.raises(Overloaded, match="decoding queue"):
        await batcher(Seeing("images")).submit(unopened(Maker(Overloaded("the decoding queue is full", 1.0))))


async def test_whoever_hangs_up_leaves_the_page_to_the_others() -> None:
    maker, client = Maker(), Seeing("images")
    maker.go.clear()
    one, stage = unopened(maker), batcher(client)
    first, second = (asyncio.create_task(stage.submit(one)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    maker.go.set()
    assert (await second).prediction.logit == 1.0
    assert len(client.items) == 1 and stage.queued == 0


async def test_the_item_has_a_place_while_its_page_is_made() -> None:
    maker, stage = Maker(), batcher(Seeing("images"), max_queue=1)
    maker.go.clear()
    first = asyncio.create_task(stage.submit(unopened(maker)))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="1 items are queued"):
        await stage.submit(unopened(Maker()))
    maker.go.set()
    await first


def test_what_is_sent_to_a_stage_carries_no_maker() -> None:
    one = replace(item(), page=Page(Maker))  # type: ignore[arg-type]
    assert all(one.slim(sees).page is None for sees in ("thumbs", "images", "both"))
