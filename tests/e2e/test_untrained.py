"""All four production architectures behind a real server, with random weights, by transformers.

`make test-vllm` does the same with vLLM.
"""

from pathlib import Path

import pytest

from benchmarks.server import own_server
from roadwork_serve.profiles.profile import STAGES
from roadwork_serve.testbed.minis.untrained import write_all
from tests.e2e.speaking import every_stage_speaks


@pytest.mark.timeout(400)
def test_every_stage_predicts(tmp_path: Path) -> None:
    transformers, _ = write_all(tmp_path / "untrained")
    with own_server(tmp_path / "log", str(transformers)) as url:
        assert every_stage_speaks(url) == set(STAGES) - {"closeup"}
