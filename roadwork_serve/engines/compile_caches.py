"""Folders for what torch.compile, Triton, vLLM and FlashInfer compile, which the next start uses again.

Experimental, not yet run on hardware.
"""

import os
from collections.abc import MutableMapping

from roadwork_serve.errors import ConfigError
from roadwork_serve.state_folder import make_private, state_folder

FOLDERS = {
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "VLLM_CACHE_ROOT": "vllm",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
}


def keep_compiled(environment: MutableMapping[str, str] = os.environ) -> None:
    """Name folders in the state folder for compiled code, before the libraries are imported.

    They hold code that is run, so only this user may write there. A variable that is set keeps its value; if the state
    folder cannot be used, the libraries use their own folders.
    """
    try:
        folder = make_private(make_private(state_folder(environment)) / "compiled")
    except (ConfigError, OSError):
        return
    for variable, name in FOLDERS.items():
        environment.setdefault(variable, str(folder / name))
