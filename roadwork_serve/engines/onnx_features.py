"""Stage 1 from an `OnnxFolder` with exchangeable heads, without PyTorch."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.engines.array_heads import Array, ArrayHead, ArrayPatchHead
from roadwork_serve.engines.head_cache import HeadCache
from roadwork_serve.engines.head_files import heads_folder
from roadwork_serve.engines.head_settings import (
    PATCH_FILE,
    BackboneIdentity,
    check_head,
    check_patch_head,
    head_files,
)
from roadwork_serve.engines.load_options import DEFAULTS, LoadOptions
from roadwork_serve.engines.onnx_folder import FILE, MODEL_TYPE, VIT, OnnxFolder
from roadwork_serve.engines.thumbnails import ROADWORK, SECOND, PatchEvidence, batches, reference_thumbs
from roadwork_serve.errors import ModelError


class OnnxFeatures:
    """A backbone in an ONNX file, with the heads that are loaded for it: `FeatureEngine` in numpy."""

    def __init__(
        self,
        model: str,
        options: LoadOptions = DEFAULTS,
        *,
        head_folder: Path | None = None,
        second_head_folder: Path | None = None,
        policy_heads: Path | None = None,
        side: int | None = None,
        max_thumbs: int = 16,
    ) -> None:
        """Load the backbone and its heads.

        Args:
            model: Folder.
            options: Settings for loading.
            head_folder: Folder of the head. By default it is loaded from the folder of the weights, if it is there.
            second_head_folder: Folder of a candidate head, which sees the same features. Its logit is named SECOND.
            policy_heads: Folder of the heads that policies may name. By default `heads` in the state folder.
            side: Side of the thumbnails in pixels. By default the only one that the file takes.
            max_thumbs: Largest number of thumbnails in one forward pass.

        Raises:
            ModelError: The model or a head cannot be loaded, or is for thumbnails of another size.
        """
        #: The backbone.
        self.folder = _open(model, options)
        self.folder.check_side(side or self.folder.side)
        self._identity, self.max_thumbs = BackboneIdentity(model, self.folder.width), max_thumbs
        own = head_folder or (Path(model) if (Path(model) / "head.json").exists() else None)
        self.head = None if own is None else self._fitted(ArrayHead.parse(head_files(own), str(own)), str(own))
        self.second = None
        if second_head_folder is not None:
            name = str(second_head_folder)
            self.second = self._fitted(ArrayHead.parse(head_files(second_head_folder), name), name)
        self.patch_head = self._own_patch_head(head_folder or Path(model))
        self._heads = HeadCache(policy_heads or heads_folder(None), ArrayHead.parse, self._fitted)

    def _fitted(self, head: ArrayHead, folder: str) -> ArrayHead:
        check_head(head.settings, folder, self._identity)
        return head

    def _own_patch_head(self, folder: Path) -> ArrayPatchHead | None:
        if not (folder / f"{PATCH_FILE}.json").exists():
            return None
        head = ArrayPatchHead(folder)
        check_patch_head(head.settings, folder, self._identity)
        return head

    @property
    def has_head(self) -> bool:
        """True if a head is loaded, be it only a second one."""
        return self.head is not None or self.second is not None

    def warm(self) -> None:
        """Run the smallest and the largest batch.

        Raises:
            ModelError: There is too little memory.
        """
        for count in (1, self.max_thumbs):
            try:
                self.extract(reference_thumbs(self.folder.side, count))
            except ModelError:
                raise
            except Exception as error:  # onnxruntime's errors share no base but Exception
                raise ModelError(
                    f"a batch of {count} thumbnails fails: {error}. Lower max_batch of the stage or "
                    "features.max_thumbs, or free memory"
                ) from error

    def extract(self, thumbs: NDArray[np.uint8]) -> Array:
        """Return the features all heads use, float32 [n, 3 * width], and with a patch head its logits after them."""
        return np.concatenate([self._features(thumbs[cut]) for cut in batches(len(thumbs), self.max_thumbs)])

    def _features(self, thumbs: NDArray[np.uint8]) -> Array:
        tokens = self.folder.tokens_of(thumbs)
        cells = tokens[:, 1:]
        parts = [tokens[:, 0], cells.mean(1), cells.max(1)]
        if self.patch_head is not None:
            parts.append(self.patch_head(cells).reshape(len(cells), -1))
        return np.concatenate(parts, axis=1)

    def apply_heads(self, features: Array, head: str | None = None) -> dict[str, Array]:
        """Return the logits [n] by name: of the loaded heads, or of a head that a policy names.

        Raises:
            ModelError: There is no such head for this backbone.
        """
        if head is not None:
            return _by_name(self._heads.load(head), features)
        found = {} if self.head is None else _by_name(self.head, features)
        if self.second is not None:
            found[SECOND] = _by_name(self.second, features)[ROADWORK]
        return found

    def stored_features(self, features: Array) -> NDArray[np.float16]:
        """Return the part of the features that the journal stores: float16 [n, width], as the recipe `cls`."""
        return features[:, : self.folder.width].astype(np.float16)

    def patch_evidence(self, features: Array) -> PatchEvidence | None:
        """Return the evidence by class and place; None without a patch head."""
        if self.patch_head is None:
            return None
        classes = self.patch_head.settings.classes
        logits = features[:, 3 * self.folder.width :].reshape(len(features), -1, len(classes))
        side = round(logits.shape[1] ** 0.5)
        return PatchEvidence(classes, logits.reshape(len(logits), side, side, len(classes)))


def _by_name(head: ArrayHead, features: Array) -> dict[str, Array]:
    logits = head(features)
    return {name: logits[:, at] for at, name in enumerate(head.settings.outputs)}


def _open(model: str, options: LoadOptions) -> OnnxFolder:
    file = Path(model) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if config.get("model_type") not in (MODEL_TYPE, VIT) or not (Path(model) / FILE).is_file():
            raise ModelError(f"{model} holds no ONNX backbone: set backend: transformers, or export it to a file")
        return OnnxFolder(model, config, options)
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ModelError(f"{file} cannot be read: {error}. Copy the folder again") from error
