"""Clips for Molmo 2, as its processor in transformers prepares them, without PyTorch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.engines.language_inputs import EncodedPrompt, Floats, normalized
from roadwork_serve.engines.processor_files import ProcessorFiles
from roadwork_serve.engines.vlm import Prompt
from roadwork_serve.errors import ModelError

_VIDEO, _PATCH, _BEGIN, _END = "<|video|>", "<im_patch>", "<frame_start>", "<frame_end>"
#: Tokens that see one another whatever their order.
_TOGETHER = ("<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", _BEGIN, "<im_end>", _END, "<im_low>")


class MolmoInputs:
    """See `PromptEncoder`. Each frame becomes a square, and the same number of tokens, after its time in seconds."""

    def __init__(self, config: Mapping[str, Any], processor: ProcessorFiles, max_pixels: int | None) -> None:
        """See `PromptEncoder`.

        Raises:
            ModelError: There is a limit on pixels, which this family does not have, or the frames need other tokens.
        """
        if max_pixels is not None:
            raise ModelError("This model's frames have a fixed size: remove language.max_pixels from the engine.")
        if processor.settings["video_use_col_tokens"] or not processor.settings["use_frame_special_tokens"]:
            raise ModelError("backend onnx cannot lay out the frames of this model: set backend: transformers")
        text = config["text_config"]
        self._tokenizer = processor.tokenizer
        self._settings = processor.settings["video_processor"]
        self._side, self._patch = self._settings["size"]["height"], self._settings["patch_size"]
        down, across = self._settings["pooling_size"]
        self._tokens = (self._side // self._patch // down) * (self._side // self._patch // across)
        self._table = text["vocab_size"] + text["additional_vocab_size"]
        self._token = config["image_patch_id"]
        ids = [self._tokenizer.convert_tokens_to_ids(name) for name in _TOGETHER]
        self._together = [each for each in ids if each is not None]
        self._first = processor.tokenizer.bos_token or processor.tokenizer.eos_token or ""
        self.axes = np.zeros(text["head_dim"] // 2, np.int64)

    def encode(self, text: str, prompt: Prompt) -> EncodedPrompt:
        """See `PromptEncoder`.

        Raises:
            ModelError: The prompt has a photo and no times.
        """
        if not prompt.timestamps_s:
            raise ModelError("this model sees photos under transformers or vLLM only: set backend: transformers")
        frame = f"{_BEGIN}{_PATCH * self._tokens}{_END}"
        shown = " ".join(f"{round(1000 * at) / 1000:.1f} {frame}" for at in prompt.timestamps_s)
        text = text.replace(_VIDEO, shown)
        words = np.array(self._tokenizer.encode(text if text.startswith(self._first) else self._first + text))
        ids, seen = words.copy(), words == self._token
        ids[seen] = self._table + np.arange(seen.sum())
        positions = np.tile(np.arange(len(ids)), (3, 1))
        pixels = np.stack([self._patches(np.asarray(image)) for image in prompt.images])
        return EncodedPrompt({"pixels": pixels}, ids.tolist(), positions, np.isin(words, self._together))

    def _patches(self, image: NDArray[np.uint8]) -> Floats:
        """Return the patches of a frame, [patches, values]: rows of patches, and in each rows of pixels."""
        pixels = normalized(_bilinear(image, self._side), self._settings)
        count = self._side // self._patch
        blocks = pixels.reshape(count, self._patch, count, self._patch, 3).transpose(0, 2, 1, 3, 4)
        return np.ascontiguousarray(blocks.reshape(count * count, -1))


def _bilinear(image: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Return the image as a square, each pixel from the four nearest ones, as whole numbers of 0 to 255.

    Pillow would average over larger areas when it shrinks an image; the model was not trained on that.
    """
    pixels = image.astype(np.float32)
    for axis in (0, 1):
        size = pixels.shape[axis]
        centres = np.arange(side, dtype=np.float32) + np.float32(0.5)
        place = (centres * np.float32(size / side) - np.float32(0.5)).clip(0)
        low = np.minimum(place.astype(np.int64), size - 1)
        share = (place - low).reshape([-1 if at == axis else 1 for at in range(3)])
        near, far = (np.take(pixels, at, axis) for at in (low, np.minimum(low + 1, size - 1)))
        pixels = near + (far - near) * share
    return pixels.round().clip(0, 255)
