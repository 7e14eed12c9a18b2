"""Downloads of weights from the hub before an engine loads, with the size beforehand and the progress in the log.

An error here is only logged: the engine meets it again when it loads, and explains it.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError
from tqdm import tqdm

from roadwork_serve.engines.quantization import choose_model, compute_capability
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.timm_mirrors import TIMM_MIRRORS

_LOG = logging.getLogger("ray.serve.roadwork.downloads")
GIB = 2**30
# What transformers and vLLM read. Repositories also hold the weights in older formats.
PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
_LOG_INTERVAL_S = 30.0

Progress = Callable[[str], None]


def is_hub_id(engine: EngineSpec) -> bool:
    """Return True if the model of an engine is a repository of the hub, and not a folder, a file or bundled."""
    model = engine.model
    named = model.count("/") == 1 and not model.startswith((".", "~", "/")) and not Path(model).exists()
    return engine.backend in ("transformers", "vllm") and named


def download_weights(engine: EngineSpec, on_progress: Progress = lambda text: None) -> None:
    """Download the weights of an engine, several files at once. Does nothing for weights that are on this machine.

    Args:
        engine: The engine of a profile.
        on_progress: Called with a description of the progress.
    """
    if constants.HF_HUB_OFFLINE:
        return
    try:
        engine = _with_chosen_model(engine)
        if not is_hub_id(engine):
            return
        files = snapshot_download(engine.model, revision=engine.revision, allow_patterns=PATTERNS, dry_run=True)
        total = sum(file.file_size or 0 for file in files if file.will_download)
        if not total:
            return
        _LOG.info("Downloading %.1f GiB of %s.", total / GIB, engine.model)
        began = time.monotonic()
        bar = _reporting_bar(engine.model, total, on_progress)
        snapshot_download(engine.model, revision=engine.revision, allow_patterns=PATTERNS, tqdm_class=bar)
        _LOG.info("Downloaded %s in %.0f s.", engine.model, time.monotonic() - began)
    except Exception as error:  # of the hub, the network or the disk, which share no base
        _LOG.warning("The weights of %s were not downloaded beforehand: %s.", engine.model, error)


def _with_chosen_model(engine: EngineSpec) -> EngineSpec:
    """Return the engine with the checkpoint that it will load on this machine's GPU."""
    if engine.backend != "vllm" or engine.quantization != "auto":
        return engine
    model = choose_model(engine, compute_capability() if engine.device == "cuda" else None)
    return engine if model == engine.model else engine.model_copy(update={"model": model, "revision": None})


def access_problem(engine: EngineSpec) -> str | None:
    """Return why this machine may not read the gated model of an engine; None if it may, or if that is unknown."""
    if engine.model not in TIMM_MIRRORS or not is_hub_id(engine) or constants.HF_HUB_OFFLINE:
        return None
    if isinstance(try_to_load_from_cache(engine.model, "config.json", revision=engine.revision), str):
        return None
    try:
        HfApi().auth_check(engine.model)
    except GatedRepoError:
        return (
            f"{engine.model} is gated and this machine may not read it: accept the license on the hub, or use "
            f"{TIMM_MIRRORS[engine.model]}"
        )
    except Exception as error:  # no network, for example: loading explains it
        _LOG.info("Whether this machine may read %s is unknown: %s.", engine.model, error)
    return None


def _reporting_bar(model: str, total: int, on_progress: Progress) -> type[Any]:
    """Return a class of progress bars for `snapshot_download` that report the bytes, and print nothing.

    The hub has a bar for the bytes that were received and one for those on the disk. The larger number counts.
    """
    done: dict[int, float] = {}
    logged_s = time.monotonic()

    def report() -> None:
        nonlocal logged_s
        gib = max(done.values()) / GIB
        on_progress(f"downloading, {gib:.1f} of {total / GIB:.1f} GiB")
        if time.monotonic() >= logged_s + _LOG_INTERVAL_S:
            logged_s = time.monotonic()
            _LOG.info("Downloading %s: %.1f of %.1f GiB.", model, gib, total / GIB)

    class ReportingBar(tqdm):  # type: ignore[type-arg]
        """A bar that is not shown."""

        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)  # of the hub's own bars
            self._bytes = options.get("unit") == "B"
            super().__init__(*args, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            if self._bytes and n:
                done[id(self)] = done.get(id(self), 0.0) + n
                report()
            return super().update(n)

    return ReportingBar
