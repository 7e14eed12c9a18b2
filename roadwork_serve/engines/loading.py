"""Checkpoints from a folder or a hub id, ready for inference; what can be wrong with one is said before it serves."""

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
from transformers.utils.logging import disable_progress_bar

from roadwork_serve.engines.memory import cap_gpu_memory, check_room
from roadwork_serve.errors import ModelError

_GIVE = "Give a folder with config.json and weights, or a hub id that this machine can reach and is allowed to read."


def load_pretrained(
    kind: type[Any],
    model: str,
    *,
    dtype: str,
    device: str,
    trust_remote_code: bool = False,
    revision: str | None = None,
    threads: int | None = None,
    gpu_memory_gib: float | None = None,
    **more: Any,
) -> Any:
    """`kind.from_pretrained`, ready for inference.

    threads: that PyTorch computes with, on a CPU. gpu_memory_gib: most that PyTorch may take of the card from here
    on. Raises ModelError when the checkpoint cannot be read, is not all there, or does not fit.
    """
    disable_progress_bar()  # of transformers, on stderr, whoever looks on
    if device == "cpu" and threads is not None:
        torch.set_num_threads(threads)
    cap_gpu_memory(gpu_memory_gib, device)
    with _explain(kind.__name__, model, revision):
        _check_family(kind, model, revision=revision, trust_remote_code=trust_remote_code)
        check_room(model, _folder(model, revision), dtype=dtype, device=device, gpu_memory_gib=gpu_memory_gib)
        loaded, found = kind.from_pretrained(
            model,
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, by name
            **_at(revision),
            **more,
        )
        if missing := sorted(found["missing_keys"]):
            raise ModelError(
                f"{model} lacks {len(missing)} of the weights of {kind.__name__}, among them {missing[0]}, which would "
                "be random numbers: the checkpoint is not complete, or is none of this class. Download it again."
            )
        for name, there, wanted in sorted(found["mismatched_keys"]):
            raise ModelError(
                f"{model} holds {name} as {tuple(there)} where its config.json wants {tuple(wanted)}: the two are of "
                "different checkpoints. Download both again."
            )
        return loaded.to(device).eval().requires_grad_(False)


def load_processor(kind: Any, model: str, *, trust_remote_code: bool = False, revision: str | None = None) -> Any:
    """`kind.from_pretrained`. Raises ModelError."""
    with _explain("processor", model, revision):
        try:
            return kind.from_pretrained(model, trust_remote_code=trust_remote_code, **_at(revision))
        except (OSError, ValueError, KeyError) as error:
            if not Path(model).is_dir():
                raise
            raise ModelError(
                f"{model} has no usable processor: {_line(error)}. The checkpoint folder is not complete."
            ) from error


def _check_family(kind: type[Any], model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> None:
    """Raises ModelError for a checkpoint of another family than the class's, before its weights are read."""
    wanted = getattr(kind, "config_class", None)
    if wanted is None:  # a class for any family
        return
    found = wanted.get_config_dict(model, trust_remote_code=trust_remote_code, **_at(revision))[0].get("model_type")
    if found != wanted.model_type:
        family = (
            f"of the family {found}"
            if found
            else "no checkpoint of transformers: it has no config.json that names a model_type"
        )
        raise ModelError(f"{model} is {family}, and a {wanted.model_type} is wanted: {kind.__name__}")


@contextmanager
def _explain(what: str, model: str, revision: str | None) -> Iterator[None]:
    """Turns what transformers and the hub raise into a ModelError that says what to do."""
    if _looks_like_path(model) and not Path(model).is_dir():
        raise ModelError(f"There is no folder {model}. {_GIVE}")
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{model} does not fit on the card beside what is there: {_line(error)}. Raise gpu_memory_gib, give other "
            "engines less of the card, or take a smaller checkpoint or dtype."
        ) from error
    except MemoryError as error:
        raise ModelError(f"{model} does not fit into memory: free some, or take a smaller checkpoint.") from error
    except SafetensorError as error:
        raise ModelError(f"The weights of {model} are damaged or cut short ({error}): download them again.") from error
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        told = _of_the_hub(error, model, revision) or f"{model} cannot be loaded as {what}: {_line(error)}. {_GIVE}"
        raise ModelError(told) from error


def _of_the_hub(error: BaseException, model: str, revision: str | None) -> str | None:
    """What to do about an error of the hub; transformers wraps those in an OSError that keeps them as its cause."""
    for cause in _causes(error):
        match cause:
            case GatedRepoError():
                return (
                    f"{model} is gated and this machine may not read it: accept the licence on "
                    f"https://huggingface.co/{model}, then run `hf auth login` or set HF_TOKEN."
                )
            case RevisionNotFoundError():
                return f"{model} has no revision {revision!r}: set engines.NAME.revision to one it has, or take it out."
            case RepositoryNotFoundError():
                return (
                    f"There is no folder {model}, and the hub shows this machine no repository of that name: mend "
                    "engines.NAME.model, or, if it is private, run `hf auth login` or set HF_TOKEN."
                )
            case LocalEntryNotFoundError() | ConnectionError() | TimeoutError():
                why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
                at = f" --revision {revision}" if revision else ""
                return (
                    f"{model} is not on this machine and {why}: run `hf download {model}{at}` where there is a network "
                    "and bring the cache (HF_HOME) along with HF_HUB_OFFLINE=1, or give a folder."
                )
            case HfHubHTTPError():
                return f"The hub answered with an error when {model} was asked for: {_line(cause)}. Try again later."
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _folder(model: str, revision: str | None) -> Path | None:
    """Where the checkpoint's files lie, as far as they are on this machine already."""
    if Path(model).is_dir():
        return Path(model)
    config = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def _looks_like_path(model: str) -> bool:
    return model.startswith((os.sep, ".", "~")) or model.count("/") > 1


def _at(revision: str | None) -> dict[str, str]:
    """transformers takes its default for "main" only where nothing is given."""
    return {} if revision is None else {"revision": revision}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
