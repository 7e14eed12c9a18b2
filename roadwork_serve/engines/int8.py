"""8-bit graphs of ONNX models for CPUs: written from pictures, compared with the original, refused if they differ.

Activations and the weights of each channel get scales of their own, measured on pictures ("static" quantization, QDQ).
With 8-bit dot products (VNNI) a convolutional network then takes about half the time. Other x86 CPUs add such products
in 16 bits, which overflow, so engines run the original there.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from roadwork_serve import media
from roadwork_serve.engines.cpu_features import multiplies_int8
from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.onnx import WRITTEN_FOR, open_session
from roadwork_serve.engines.onnx_features import OnnxFeatures
from roadwork_serve.engines.onnx_folder import FILE, INPUT, INT8_FILE
from roadwork_serve.engines.thumbnails import ROADWORK
from roadwork_serve.errors import MediaError, ModelError
from roadwork_serve.local_files import list_folder
from roadwork_serve.media import Photo
from roadwork_serve.profiles.media_limits import MediaLimits

MIN_PICTURES = 40  # half of them to measure on, half to compare with
MAX_PICTURES = 500
MAX_CHANGE = 0.03  # mean change of the probability of road work, and of the share of pictures that change their side
_MEASURED = 64  # pictures that scales are measured on; more take minutes and change little
_PERCENTILE = 99.99  # of the activations of a tensor that its scale covers
_SEED = 72
Inputs = Sequence[Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class Int8Graph:
    """A written graph, and what it changed on pictures on which no scale was measured."""

    file: Path
    #: Mean change of the probability of road work.
    change: float
    #: Share of the pictures whose probability crossed one half.
    crossed: float
    #: Pictures compared.
    pictures: int


def read_thumbs(folder: Path, photos: Path) -> NDArray[np.uint8]:
    """Return the thumbnails of the photos below a folder in random order, at most MAX_PICTURES; clips are left out.

    Raises:
        ConfigError: The folder with the photos cannot be listed.
        ModelError: The folder with the backbone cannot be read.
    """
    limits = MediaLimits(thumb_side=OnnxFeatures(str(folder)).side)
    files = [file for file in list_folder(photos) if not file.problem]
    thumbs: list[NDArray[np.uint8]] = []
    for at in np.random.default_rng(_SEED).permutation(len(files)):
        if len(thumbs) == MAX_PICTURES:
            break
        with suppress(MediaError, OSError):
            read = media.read(Path(files[at].path).read_bytes(), limits)
            if isinstance(read, Photo):
                thumbs.append(read.thumb)
    return np.stack(thumbs) if thumbs else np.empty((0, limits.thumb_side, limits.thumb_side, 3), np.uint8)


def write_int8_backbone(folder: Path, thumbs: NDArray[np.uint8], head: Path | None = None) -> Int8Graph:
    """Write the 8-bit graph of a convolutional backbone beside its graph.

    Args:
        folder: Folder with a backbone as an ONNX file.
        thumbs: Thumbnails of pictures like those that will be classified, uint8 [n, side, side, 3], in random order.
        head: Folder of the head to compare with. By default the one in the folder.

    Raises:
        ModelError: The CPU has no 8-bit dot products, the pictures are too few, there is no head, or the probabilities
            move by more than MAX_CHANGE. Nothing is written then.
    """
    if not multiplies_int8():
        raise ModelError(
            "this CPU has no 8-bit dot products (VNNI), without which 8-bit graphs cannot be compared: use one"
        )
    if len(thumbs) < MIN_PICTURES:
        raise ModelError(f"8-bit scales need at least {MIN_PICTURES} pictures, and these are {len(thumbs)}: add some")
    original = OnnxFeatures(str(folder), head_folder=head)
    if original.head is None:
        raise ModelError(f"{folder} has no head to compare with: name a folder with head.json (--head FOLDER)")
    half = min(len(thumbs) // 2, _MEASURED)
    measured, compared = thumbs[:half], thumbs[half:]
    with tempfile.TemporaryDirectory(prefix="roadwork-int8-") as drafts:
        draft = shutil.copytree(folder, Path(drafts) / folder.name)
        inputs = [{INPUT: original.pixels(thumb[None])} for thumb in measured]
        quantize(folder / FILE, draft / INT8_FILE, inputs, fingerprint(str(folder)))
        found = OnnxFeatures(str(draft), LoadOptions(dtype="int8"), head_folder=head)
        result = _compared(original, found, compared, folder / INT8_FILE)
        if max(result.change, result.crossed) > MAX_CHANGE:
            raise ModelError(
                f"in 8 bits the probabilities of {result.pictures} pictures change by {result.change:.3f} on average, "
                f"and {result.crossed:.1%} of them cross one half; the bound is {MAX_CHANGE}. Use float32 for this "
                "backbone"
            )
        shutil.copyfile(draft / INT8_FILE, result.file)
    return result


def _compared(original: OnnxFeatures, found: OnnxFeatures, thumbs: NDArray[np.uint8], file: Path) -> Int8Graph:
    logits = [engine.apply_heads(engine.extract(thumbs))[ROADWORK] for engine in (original, found)]
    of_32, of_8 = 1 / (1 + np.exp(-np.stack(logits)))
    change, crossed = np.abs(of_8 - of_32).mean(), ((of_8 > 0.5) != (of_32 > 0.5)).mean()
    return Int8Graph(file, float(change), float(crossed), len(thumbs))


def quantize(source: Path, out: Path, inputs: Inputs, written_for: str) -> None:
    """Write the 8-bit graph of a graph.

    Args:
        source: Graph in float32 or float16.
        out: File to write.
        inputs: Inputs that scales are measured on.
        written_for: Fingerprint of the weights, which is checked when the graph is opened.

    Raises:
        ModelError: The packages of the extra `export` are not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise ModelError(f"8-bit graphs need onnx: pip install 'roadwork-serve[export]' ({error})") from error
    with tempfile.TemporaryDirectory(prefix="roadwork-int8-") as drafts:
        plain, draft = Path(drafts) / "plain.onnx", Path(drafts) / "int8.onnx"
        open_session(source, 1, saved=plain)
        with redirect_stdout(None):  # it prints what it does
            quantize_static(
                plain,
                draft,
                cast("Any", _Reader(inputs)),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": _PERCENTILE},
            )
        written = onnx.load(draft)
        written.metadata_props.append(onnx.StringStringEntryProto(key=WRITTEN_FOR, value=written_for))
        used = {node.domain for node in written.graph.node}
        kept = [each for each in written.opset_import if each.domain in used]
        del written.opset_import[:]
        written.opset_import.extend(kept)
        onnx.checker.check_model(written)
        onnx.save(written, out)


class _Reader:
    """Inputs as the calibration of onnxruntime takes them: one by one, then None."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> Any:
        return next(self._inputs, None)
