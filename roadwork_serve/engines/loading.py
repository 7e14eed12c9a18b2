"""Loading of checkpoints from a folder or hub id, with error messages that say what to do."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers import PreTrainedConfig
from transformers.utils.hub import cached_file
from transformers.utils.logging import disable_progress_bar

from roadwork_serve.engines.load_options import DEFAULTS, LoadOptions
from roadwork_serve.engines.memory import cap_gpu_memory, check_memory
from roadwork_serve.errors import ModelError
from roadwork_serve.profiles.timm_mirrors import TIMM_MIRRORS

_GIVE = "Give a folder with config.json and weights, or a hub id that this machine can reach and is allowed to read."


def load_pretrained(kind: type[Any], model: str, options: LoadOptions = DEFAULTS, **more: Any) -> Any:
    """Call `kind.from_pretrained` and prepare the model for inference.

    Args:
        kind: Class of transformers.
        model: Folder or hub id.
        options: Settings for loading.
        **more: Further arguments of `from_pretrained`.

    Raises:
        ModelError: The checkpoint cannot be read, is incomplete, or does not fit into memory.
    """
    disable_progress_bar()  # transformers prints one to stderr
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    cap_gpu_memory(options)
    with _explain(kind.__name__, model, options.revision):
        _check_family(kind, model, options)
        check_memory(model, _folder(model, options.revision), options)
        loaded, found = kind.from_pretrained(
            model,
            dtype=getattr(torch, options.dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below by name
            **_source(options),
            **more,
        )
        if missing := sorted(found["missing_keys"]):
            raise ModelError(
                f"{model} lacks {len(missing)} of the weights of {kind.__name__}, among them {missing[0]}, which would "
                "be random: the checkpoint is incomplete, or belongs to another class. Download it again."
            )
        for name, there, wanted in sorted(found["mismatched_keys"]):
            raise ModelError(
                f"{model} holds {name} as {tuple(there)} where its config.json has {tuple(wanted)}: the two belong "
                "to different checkpoints. Download both again."
            )
        return loaded.to(options.device).eval().requires_grad_(False)


def load_processor(kind: Any, model: str, options: LoadOptions = DEFAULTS) -> Any:
    """Call `kind.from_pretrained` for a processor.

    Raises:
        ModelError: The checkpoint has no usable processor.
    """
    with _explain("processor", model, options.revision):
        try:
            return kind.from_pretrained(model, **_source(options))
        except (OSError, ValueError, KeyError) as error:
            if not Path(model).is_dir():
                raise
            raise ModelError(
                f"{model} has no usable processor: {_line(error)}. The checkpoint folder is incomplete."
            ) from error


def read_config(model: str, options: LoadOptions = DEFAULTS) -> dict[str, Any]:
    """Return the contents of config.json. A checkpoint of timm gets the model_type timm_wrapper.

    Raises:
        ModelError: The folder or hub id has no config.json that can be read.
    """
    with _explain("config.json", model, options.revision):
        return PreTrainedConfig.get_config_dict(model, **_source(options))[0]


def read_processor_config(model: str, options: LoadOptions = DEFAULTS) -> dict[str, Any]:
    """Return the contents of preprocessor_config.json; empty if the checkpoint has none.

    Raises:
        ModelError: The file cannot be read, or the hub cannot be reached to see whether there is one.
    """
    with _explain("preprocessor_config.json", model, options.revision):
        file = cached_file(
            model,
            "preprocessor_config.json",
            revision=options.revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=not constants.HF_HUB_OFFLINE,
        )
        return json.loads(Path(file).read_text(encoding="utf-8")) if file else {}


def _check_family(kind: type[Any], model: str, options: LoadOptions) -> None:
    """Raise ModelError for a checkpoint of another model family, before its weights are read."""
    wanted = getattr(kind, "config_class", None)
    if wanted is None:  # a class for any family
        return
    found = wanted.get_config_dict(model, **_source(options))[0].get("model_type")
    if found != wanted.model_type:
        family = (
            f"of the model type {found}"
            if found
            else "not a checkpoint of transformers: it has no config.json with a model_type"
        )
        raise ModelError(f"{model} is {family}, and {kind.__name__} needs {wanted.model_type}")


@contextmanager
def _explain(what: str, model: str, revision: str | None) -> Iterator[None]:
    """Convert errors of transformers and the hub to a ModelError that says what to do."""
    if _looks_like_path(model) and not Path(model).is_dir():
        raise ModelError(f"There is no folder {model}. {_GIVE}")
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{model} does not fit into the free memory of the GPU: {_line(error)}. Raise gpu_memory_gib, give other "
            "engines less of the GPU, or use a smaller checkpoint or dtype."
        ) from error
    except MemoryError as error:
        raise ModelError(f"{model} does not fit into memory: free some, or use a smaller checkpoint.") from error
    except SafetensorError as error:
        raise ModelError(f"The weights of {model} are damaged or truncated ({error}): download them again.") from error
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        message = _hub_message(error, model, revision) or f"{model} cannot be loaded as {what}: {_line(error)}. {_GIVE}"
        raise ModelError(message) from error


def _hub_message(error: BaseException, model: str, revision: str | None) -> str | None:
    """Explain an error of the hub, which transformers wraps in an OSError; return None for other errors."""
    for cause in _causes(error):
        match cause:
            case GatedRepoError():
                return _gated_message(model)
            case RevisionNotFoundError():
                return f"{model} has no revision {revision!r}: set engines.NAME.revision to one it has, or remove it."
            case RepositoryNotFoundError():
                return (
                    f"There is no folder {model}, and the hub shows this machine no repository of that name: correct "
                    "engines.NAME.model, or, if it is private, run `hf auth login` or set HF_TOKEN."
                )
            case LocalEntryNotFoundError() | ConnectionError() | TimeoutError():
                why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
                at = f" --revision {revision}" if revision else ""
                return (
                    f"{model} is not on this machine and {why}: run `hf download {model}{at}` where there is a network "
                    "and copy the cache (HF_HOME) here, with HF_HUB_OFFLINE=1, or give a folder."
                )
            case HfHubHTTPError() if cause.response is not None and cause.response.status_code in (401, 403):
                return _gated_message(model)
            case HfHubHTTPError():
                return f"The hub returned an error for {model}: {_line(cause)}. Try again later."
    return None


def _gated_message(model: str) -> str:
    mirror = TIMM_MIRRORS.get(model)
    if mirror:
        instead = f" Without a licence to accept, {mirror} has the same weights: set model to it to start now."
    elif model.startswith("facebook/dinov3"):
        instead = " Without a licence to accept, set model to facebook/dinov2-with-registers-large to start now."
    else:
        instead = ""
    return (
        f"{model} is gated and this machine may not read it: accept the licence on https://huggingface.co/{model}, "
        f"then run `hf auth login` or set HF_TOKEN.{instead}"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _folder(model: str, revision: str | None) -> Path | None:
    """Return the folder of the checkpoint's files; None if they are not on this machine yet."""
    if Path(model).is_dir():
        return Path(model)
    config = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def _looks_like_path(model: str) -> bool:
    return model.startswith((os.sep, ".", "~")) or model.count("/") > 1


def _source(options: LoadOptions) -> dict[str, Any]:
    """Return arguments of `from_pretrained`. Without a revision transformers uses its default; None is an error."""
    revision = {} if options.revision is None else {"revision": options.revision}
    return {"trust_remote_code": options.trust_remote_code, **revision}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
