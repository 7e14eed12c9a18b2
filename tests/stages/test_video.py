from dataclasses import replace

import pytest

from roadwork_serve.cascade.prediction import Stage
from tests import untrained
from tests.stages.items import clip, opened, photo


@pytest.fixture(scope="module")
def stage() -> Stage:
    return opened("video", untrained.video())


async def test_clips_of_different_length_are_predicted_as_each_alone(stage: Stage) -> None:
    long = clip(1)
    short = replace(clip(2), images=clip(2).images[:3], timestamps_s=clip(2).timestamps_s[:3])
    together = [o.logit for o in await stage.predict([long, short, photo(1)])]
    assert together == pytest.approx(
        [(await stage.predict([item]))[0].logit for item in (long, short, photo(1))], abs=1e-3
    )


async def test_undecodable_frames_are_skipped(stage: Stage) -> None:
    item = clip(1)
    holed = replace(item, images=(*item.images[:7], b"no picture"))
    fewer = replace(item, images=item.images[:7], timestamps_s=item.timestamps_s[:7])
    lost = replace(item, images=(b"no picture",) * 8)
    assert (await stage.predict([holed]))[0].logit == pytest.approx((await stage.predict([fewer]))[0].logit, abs=1e-4)
    assert (await stage.predict([lost]))[0].logit is None


async def test_times_and_tokens_are_reported(stage: Stage) -> None:
    (prediction,) = await stage.predict([clip(1)])
    assert prediction.preprocess_ms > 0 and prediction.compute_ms > 0 and prediction.tokens == 1


async def test_the_number_of_frames_can_be_reduced(stage: Stage) -> None:
    item = clip(1)
    half = replace(item, images=item.images[::2], timestamps_s=item.timestamps_s[::2])
    sparing = opened("video", untrained.video(), frames=4)
    seen = (await sparing.predict([item]))[0].logit
    assert seen == pytest.approx((await stage.predict([half]))[0].logit, abs=1e-4)
    assert seen == (await sparing.predict([half]))[0].logit
