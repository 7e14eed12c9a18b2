"""The progress of replicas that load their model, which cannot answer calls yet: in the key-value store of Ray."""

import logging
import math
import time
from collections.abc import Mapping

from ray.experimental.internal_kv import (
    _internal_kv_del,  # pyright: ignore[reportPrivateUsage] - Serve's controller uses it too
    _internal_kv_get,  # pyright: ignore[reportPrivateUsage]
    _internal_kv_initialized,  # pyright: ignore[reportPrivateUsage]
    _internal_kv_put,  # pyright: ignore[reportPrivateUsage]
)

from roadwork_serve.api.deployment_names import deployment_of
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.stage_kinds import StageName

_LOG = logging.getLogger("ray.serve.roadwork.load_progress")
_NAMESPACE = b"roadwork"
_CACHE_S = 1.0


def report_progress(deployment: str, text: str) -> None:
    """Publish the progress of a deployment's newest replica; an empty text when it is ready. Outside Ray do nothing."""
    if not _internal_kv_initialized():
        return
    try:
        if text:
            _internal_kv_put(_key(deployment), text.encode(), overwrite=True, namespace=_NAMESPACE)
        else:
            _internal_kv_del(_key(deployment), namespace=_NAMESPACE)
    except Exception:  # a head node that restarts must not stop a model from loading
        _LOG.warning("The progress of %s could not be published.", deployment, exc_info=True)


class LoadProgress:
    """Reads the progress of the stages of a profile, at most once a second: clients may ask often while models load."""

    def __init__(self, profile: Profile) -> None:
        users = profile.users()
        self._deployments: dict[str, str] = {}
        for names in profile.processes():
            stages: list[StageName] = [stage for name in names for stage in users[name]]
            self._deployments |= dict.fromkeys(stages, deployment_of(stages))
        self._read: dict[str, str] = {}
        self._read_s = -math.inf

    def __call__(self) -> Mapping[str, str]:
        """Return the progress by stage; stages without a replica that loads are left out."""
        now_s = time.monotonic()
        if _internal_kv_initialized() and now_s >= self._read_s + _CACHE_S:
            self._read_s = now_s
            try:
                texts = {name: _internal_kv_get(_key(name), namespace=_NAMESPACE)
                         for name in set(self._deployments.values())}  # fmt: skip
            except Exception:
                _LOG.warning("The progress of loading could not be read.", exc_info=True)
                texts = {}
            self._read = {
                stage: text.decode() for stage, name in self._deployments.items() if (text := texts.get(name))
            }
        return self._read


def _key(deployment: str) -> bytes:
    return f"loading:{deployment}".encode()
