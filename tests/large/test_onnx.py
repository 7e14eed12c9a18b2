"""Stage 1 from an exported file gives the same verdicts as the same cascade with transformers."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.server import started
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.engines.export import export_onnx
from roadwork_serve.local_cascade import local_cascade
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.schema import Verdict
from roadwork_serve.server_state import Info
from roadwork_serve.testbed import scenes

PHOTOS = [scenes.photo(seed).jpeg() for seed in range(9_000_000_000, 9_000_000_008)]
CHEAP = {"stages": {"vlm": None, "reasoner": None, "video": None}}  # used by the policy, which works without them


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a server whose stage 1 is a newly exported file."""
    folder = tmp_path_factory.mktemp("onnx")
    file = export_onnx("bundled:backbone", folder / "stage1.onnx").file
    exported = {"engines": {"dinov3": {"model": str(file)}}}
    with started(folder / "log", {"profile": "mini", "overrides": CHEAP | exported}) as server:
        yield server.url


def test_the_exported_file_serves_the_same_verdicts(url: str) -> None:
    engines = {stage.stage: stage for stage in Info.model_validate(httpx.get(f"{url}/v1/info").json()).stages}
    assert engines["backbone"].model.endswith("stage1.onnx")
    exits = set()
    for data, expected in zip(PHOTOS, asyncio.run(here(PHOTOS)), strict=True):
        response = httpx.post(f"{url}/v1/classify", content=data, headers={"content-type": "image/jpeg"}, timeout=60)
        found = Verdict.model_validate(response.json())
        assert (found.label, found.degraded, found.exit) == (expected.label, expected.degraded, expected.exit)
        assert found.probability == pytest.approx(expected.probability, abs=1e-3)
        exits.add(found.exit.stage)
    assert exits == {"backbone", "signs"}  # otherwise the scenes would not cover both exits


async def here(photos: list[bytes]) -> list[Verdict]:
    """Return the verdicts of the cascade in this process, with transformers."""
    profile = load_profile("mini", CHEAP | {"engines": {"dinov3": {"backend": "transformers"}}})
    async with local_cascade(profile, load_policy(profile.policy)) as cascade:
        return [await cascade.classify(data, 60_000) for data in photos]
