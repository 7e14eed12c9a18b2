from dataclasses import replace

import pytest

from roadwork_serve.profiles.profile import StageSpec
from roadwork_serve.stages.video import Video
from tests import untrained
from tests.stages.items import clip, photo


@pytest.fixture(scope="module")
def stage() -> Video:
    return Video(StageSpec(engine="transformers", model=str(untrained.video()), miniature=True))


def test_judges_clips_of_unlike_length_as_each_alone(stage: Video) -> None:
    long = clip(1)
    short = replace(clip(2), images=clip(2).images[:3], timestamps_s=clip(2).timestamps_s[:3])
    together = [o.logit for o in stage.judge([long, short, photo(1)])]
    assert together == pytest.approx([stage.judge([item])[0].logit for item in (long, short, photo(1))], abs=1e-3)


def test_leaves_out_frames_that_cannot_be_decoded(stage: Video) -> None:
    item = clip(1)
    holed = replace(item, images=(*item.images[:7], b"no picture"))
    fewer = replace(item, images=item.images[:7], timestamps_s=item.timestamps_s[:7])
    lost = replace(item, images=(b"no picture",) * 8)
    assert stage.judge([holed])[0].logit == pytest.approx(stage.judge([fewer])[0].logit, abs=1e-4)
    assert stage.judge([lost])[0].logit is None


def test_reports_what_it_cost(stage: Video) -> None:
    (opinion,) = stage.judge([clip(1)])
    assert opinion.batch_ms > 0 and opinion.compute_ms > 0 and opinion.tokens == 1
