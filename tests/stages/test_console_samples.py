"""The samples of the console, through the cascade of the profile without a GPU."""

import json
from pathlib import Path

import pytest

import roadwork_serve
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.local_cascade import local_cascade
from roadwork_serve.profiles.load import load_profile

FOLDER = Path(roadwork_serve.__file__).parent / "console/samples"
SAMPLES = json.loads((FOLDER / "samples.json").read_text())


@pytest.mark.timeout(600)
async def test_every_sample_gets_the_label_it_shows() -> None:
    profile = load_profile("cpu")
    wrong = {}
    async with local_cascade(profile, load_policy(profile.policy)) as cascade:
        for sample in SAMPLES:
            verdict = await cascade.classify((FOLDER / sample["file"]).read_bytes())
            if verdict.label != sample["label"]:
                wrong[sample["file"]] = verdict.probability
            if "credit" in sample and sample["label"] == "roadwork":
                seen, is_clip = verdict.stages[0].evidence, "still" in sample
                assert seen.regions and bool(seen.heat_map) is not is_clip
                assert not is_clip or any(region.frame for region in seen.regions)
    assert wrong == {}
