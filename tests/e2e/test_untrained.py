"""All four production architectures behind a real server, with random weights, by transformers.

`make test-vllm` does the same with vLLM.
"""

from pathlib import Path

import pytest

from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.stage_kinds import STAGES
from roadwork_serve.testbed.minis.untrained import write_all
from tests.e2e.conftest import Cluster, application, journal_in
from tests.e2e.speaking import every_stage_speaks


@pytest.mark.timeout(400)
def test_every_stage_predicts(cluster: Cluster, tmp_path: Path) -> None:
    transformers, _ = write_all(tmp_path / "untrained")
    profile = load_profile(str(transformers), {"journal": journal_in(tmp_path)})
    with application(cluster, "untrained", profile) as url:
        assert every_stage_speaks(url) == set(STAGES) - {"closeup"}
