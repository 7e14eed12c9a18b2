"""Checks of a server over untrained checkpoints, for any backend."""

import httpx

from roadwork_serve.schema import Verdict
from roadwork_serve.testbed import scenes


def every_stage_speaks(url: str) -> set[str]:
    """Send a photo and a clip through all their stages; none is degraded. Return the stages."""
    photo = _ask(url, scenes.photo(7).jpeg(), "image/jpeg")
    clip = _ask(url, scenes.clip(7).mp4(), "video/mp4")
    for verdict, stages in ((photo, ["backbone", "signs", "vlm", "reasoner"]), (clip, ["backbone", "signs", "video"])):
        assert [(report.stage, report.outcome) for report in verdict.stages if report.stage != "signs"] == [
            (stage, "answered") for stage in stages if stage != "signs"
        ]
        (signs,) = (report for report in verdict.stages if report.stage == "signs")
        assert signs.outcome in ("answered", "abstained")  # noise may contain no text
        assert not verdict.degraded and verdict.exit.stage == stages[-1] and 0 < verdict.probability < 1
    (reasoner,) = (report for report in photo.stages if report.stage == "reasoner")
    assert reasoner.evidence.reasoning is not None
    assert 1 < reasoner.tokens <= 48 + 8  # the budget, the end of the reasoning, and the answer
    return {report.stage for report in photo.stages + clip.stages}


def _ask(url: str, data: bytes, kind: str) -> Verdict:
    reply = httpx.post(
        f"{url}/v1/classify?deadline_ms=120000", content=data, headers={"content-type": kind}, timeout=130
    )
    assert reply.status_code == 200, reply.text
    return Verdict.model_validate(reply.json())
