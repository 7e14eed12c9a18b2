"""8-bit graphs of convolutional backbones: made from photos, compared with float32, refused if they differ.

Activations, and the weights of each channel, have scales that are measured on photos (static quantization, QDQ). With
8-bit dot products (VNNI) such a network takes half the time; `benchmarks/results/stage1.json` has the figures. Other
x86 CPUs add 8-bit products in 16 bits, which saturate, so engines run the original there.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from roadwork_serve import media
from roadwork_serve.atomic_write import replace_file
from roadwork_serve.engines.cpu_features import has_int8_dot_products
from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.int8_input import take_bytes
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.onnx import INT8_FILE, WRITTEN_FOR, open_session
from roadwork_serve.engines.onnx_features import OnnxFeatures
from roadwork_serve.engines.onnx_folder import FILE, INPUT, MODEL_TYPE, OnnxFolder, blocks
from roadwork_serve.engines.thumbnails import ROADWORK
from roadwork_serve.errors import MediaError, ModelError
from roadwork_serve.local_files import list_folder
from roadwork_serve.media import Photo
from roadwork_serve.profiles.media_limits import MediaLimits

MIN_PHOTOS, MAX_PHOTOS = 80, 500  # half of them give scales, the others are compared
MAX_CHANGE = 0.03  # of the mean change of each probability, and of the share of photos that flip
_CALIBRATION_PHOTOS = 64  # at most; all their activations are in memory
_PERCENTILE = 99.99  # of the activations of a tensor that its scale covers
_SEED = 72


@dataclass(frozen=True, slots=True)
class Int8Graph:
    """A written graph, and the changes on photos on which no scale was measured."""

    file: Path
    #: Mean change of each probability: of the outputs of the head, and of the patch head over all cells, as "patches".
    changes: dict[str, float]
    #: Share of the photos whose probability of road work crosses one half.
    flipped: float
    #: Photos compared.
    photos: int

    @property
    def summary(self) -> str:
        """The mean changes as text."""
        return ", ".join(f"{change:.3f} ({name})" for name, change in self.changes.items())


def write_int8_backbone(folder: Path, thumbs: NDArray[np.uint8], head: Path | None = None) -> Int8Graph:
    """Write the 8-bit graph of a convolutional backbone beside its graph.

    Args:
        folder: Folder with a convolutional backbone as an ONNX file.
        thumbs: Thumbnails of photos like those that will be classified, uint8 [n, side, side, 3], in random order.
        head: Folder of the head to compare with. By default the one in the folder.

    Raises:
        ConfigError: The disk refuses the file.
        ModelError: `check_int8` or `take_bytes` refuses, the photos are too few, there is no head, or a probability
            moves by more than MAX_CHANGE. Nothing is written then.
    """
    check_int8(folder)
    if len(thumbs) < MIN_PHOTOS:
        raise ModelError(f"8-bit scales need at least {MIN_PHOTOS} photos, and these are {len(thumbs)}: add some")
    original = OnnxFeatures(str(folder), head_folder=head)
    if original.head is None:
        raise ModelError(f"{folder} has no head to compare with: name a folder with head.json (--head FOLDER)")
    half = min(len(thumbs) // 2, _CALIBRATION_PHOTOS)
    with tempfile.TemporaryDirectory(prefix="roadwork-int8-") as name:
        draft = shutil.copytree(folder, Path(name) / "model")
        _quantize(original.folder, folder / FILE, draft / INT8_FILE, thumbs[:half], fingerprint(str(folder)))
        quantized = OnnxFeatures(str(draft), LoadOptions(dtype="int8"), head_folder=head)
        result = _compare(original, quantized, thumbs[half:], folder / INT8_FILE)
        if max(result.flipped, *result.changes.values()) > MAX_CHANGE:
            raise ModelError(
                f"in 8 bits the probabilities change by {result.summary} on average over {result.photos} photos, and "
                f"{result.flipped:.1%} of the verdicts flip; the bound is {MAX_CHANGE} for each. Use float32 for this "
                "backbone, or give photos that are more like those it will see"
            )
        with replace_file(result.file) as out:
            shutil.copyfile(draft / INT8_FILE, out)
    return result


def check_int8(folder: Path) -> None:
    """Raise ModelError unless a backbone can be quantized here."""
    if not has_int8_dot_products():
        raise ModelError("this CPU has no 8-bit dot products (VNNI), by which the graph is compared: use one that has")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = None
    if kind != MODEL_TYPE:
        raise ModelError(f"{folder} is not a folder with a convolutional backbone as an ONNX file, which alone can be")
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ModelError("8-bit graphs need onnx: pip install 'roadwork-serve[export]'") from error


def read_thumbs(folder: Path, photos: Path) -> NDArray[np.uint8]:
    """Return the thumbnails of the photos below a folder in random order, at most MAX_PHOTOS; clips are left out.

    Args:
        folder: Folder with the backbone, whose size the thumbnails have.
        photos: Folder with the photos.

    Raises:
        ConfigError: The folder with the photos cannot be listed.
        ModelError: The folder with the backbone cannot be read.
    """
    limits = MediaLimits(thumb_side=OnnxFeatures(str(folder)).folder.side)
    files = [file for file in list_folder(photos) if not file.problem]
    thumbs: list[NDArray[np.uint8]] = []
    for at in np.random.default_rng(_SEED).permutation(len(files)):
        if len(thumbs) == MAX_PHOTOS:
            break
        with suppress(MediaError, OSError):
            read = media.read(Path(files[at].path).read_bytes(), limits)
            if isinstance(read, Photo):
                thumbs.append(read.thumb)
    return np.stack(thumbs) if thumbs else np.empty((0, limits.thumb_side, limits.thumb_side, 3), np.uint8)


def _compare(original: OnnxFeatures, quantized: OnnxFeatures, thumbs: NDArray[np.uint8], file: Path) -> Int8Graph:
    float32, int8 = (_probabilities(engine, thumbs) for engine in (original, quantized))
    changes = {name: float(np.abs(int8[name] - float32[name]).mean()) for name in float32}
    flipped = float(((int8[ROADWORK] > 0.5) != (float32[ROADWORK] > 0.5)).mean())
    return Int8Graph(file, changes, flipped, len(thumbs))


def _probabilities(engine: OnnxFeatures, thumbs: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    features = engine.extract(thumbs)
    logits = dict(engine.apply_heads(features))
    if (patches := engine.patch_evidence(features)) is not None:
        logits["patches"] = patches.logits
    return {name: 1 / (1 + np.exp(-each)) for name, each in logits.items()}


def _quantize(backbone: OnnxFolder, source: Path, out: Path, thumbs: NDArray[np.uint8], written_for: str) -> None:
    """Quantize a graph to 8 bits, with scales from these thumbnails, and note the fingerprint of its weights in it."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    plain = out.parent.with_suffix(".onnx")  # beside the folder, whose fingerprint covers every graph in it
    open_session(source, 1, saved=plain)
    graph = onnx.load(plain)
    given = take_bytes(graph, backbone.side, backbone.mean, backbone.std)
    with redirect_stdout(None):  # it prints progress
        quantize_static(
            graph,
            out,
            cast("Any", _Reader(given.pixels(blocks(thumb[None], given.block)) for thumb in thumbs)),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": _PERCENTILE, "TensorQuantOverrides": given.override},
        )
    graph = onnx.load(out)
    given.finish(graph)
    graph.metadata_props.append(onnx.StringStringEntryProto(key=WRITTEN_FOR, value=written_for))
    used = {node.domain for node in graph.graph.node}
    kept = [each for each in graph.opset_import if each.domain in used]
    del graph.opset_import[:]
    graph.opset_import.extend(kept)
    onnx.checker.check_model(graph)
    onnx.save(graph, out)


class _Reader:
    """Inputs as the calibration of onnxruntime takes them: one by one, then None."""

    def __init__(self, inputs: Iterator[NDArray[np.float32]]) -> None:
        self._inputs = inputs

    def get_next(self) -> Any:
        return None if (pixels := next(self._inputs, None)) is None else {INPUT: pixels}
