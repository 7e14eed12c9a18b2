"""Opens the engine that a profile describes, and imports only the library it needs.

A new backend is added here: one entry in the table of its role, and its name in `profiles.stage_kinds.BACKENDS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from roadwork_serve.engines.head_files import heads_folder
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.ocr import OcrEngine
from roadwork_serve.engines.thumbnails import FeatureExtractor
from roadwork_serve.engines.vlm import LanguageEngine
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.profiles.backend_packages import missing_packages
from roadwork_serve.profiles.engine_spec import EngineSpec

_Opener = TypeVar("_Opener")
_MAX_THUMBS = 16  # thumbnails in one forward pass where the profile sets no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Load that the stages put on a language engine."""

    #: Prompts may hold photos.
    photos: bool
    #: Prompts may hold clips.
    clips: bool
    #: Largest number of concurrent prompts.
    concurrency: int
    #: Time limit of one call in seconds.
    timeout_s: float
    #: An engine with pending prompts and no answer for this long is considered stuck, in seconds.
    stuck_s: float


def open_feature_extractor(spec: EngineSpec) -> FeatureExtractor:
    """Open the engine of stage 1.

    Raises:
        ConfigError: The backend cannot run a backbone, or the profile names a head for an exported file.
        ModelError: The model cannot be loaded.
    """
    if (spec.features.head or spec.features.second_head) and is_exported_file(spec):
        raise ConfigError(
            "features.head, features.second_head: an exported file contains its head and runs no other; remove them, "
            "or export with --head"
        )
    return _opener("a backbone", _FEATURES, spec)(spec)


def open_ocr(spec: EngineSpec) -> OcrEngine:
    """Open the engine of stage 2A.

    Raises:
        ConfigError: The backend cannot read text.
        ModelError: The model cannot be loaded.
    """
    return _opener("OCR", _OCR, spec)(spec)


def open_language_engine(spec: EngineSpec, workload: Workload) -> LanguageEngine:
    """Open the engine of stages 2B, 3A and 3B.

    Raises:
        ConfigError: The backend cannot run a language model.
        ModelError: The model cannot be loaded.
    """
    return _opener("a language model", _LANGUAGE, spec)(spec, workload)


def _opener(kind: str, openers: Mapping[str, _Opener], spec: EngineSpec) -> _Opener:
    if spec.backend not in openers:
        raise ConfigError(f"backend: {spec.backend} cannot run {kind}; use {' or '.join(openers)}")
    if missing := missing_packages(spec.backend):
        raise ModelError(missing)
    return openers[spec.backend]


def _backbone(spec: EngineSpec) -> FeatureExtractor:
    from roadwork_serve.engines.features import FeatureEngine

    settings = spec.features
    return FeatureEngine(
        weights_folder(spec.model),
        LoadOptions.of(spec),
        head_folder=Path(settings.head) if settings.head else None,
        second_head_folder=Path(settings.second_head) if settings.second_head else None,
        policy_heads=heads_folder(settings.policy_heads),
        side=settings.side,
        max_thumbs=settings.max_thumbs or _MAX_THUMBS,
        compile=settings.compile,
    )


def is_exported_file(spec: EngineSpec) -> bool:
    """Return True for a file with a head in it, False for a folder with a backbone."""
    return spec.backend != "transformers" and not Path(weights_folder(spec.model)).is_dir()


def _onnx(spec: EngineSpec) -> FeatureExtractor:
    settings = spec.features
    if not is_exported_file(spec):
        from roadwork_serve.engines.onnx_features import OnnxFeatures

        return OnnxFeatures(
            weights_folder(spec.model),
            LoadOptions.of(spec),
            head_folder=Path(settings.head) if settings.head else None,
            second_head_folder=Path(settings.second_head) if settings.second_head else None,
            policy_heads=heads_folder(settings.policy_heads),
            side=settings.side,
            max_thumbs=settings.max_thumbs or _MAX_THUMBS,
        )
    from roadwork_serve.engines.onnx import OnnxBackbone

    return OnnxBackbone(
        Path(spec.model),
        threads=spec.threads,
        device=spec.device,
        side=settings.side,
        max_thumbs=settings.max_thumbs or _MAX_THUMBS,
    )


def _tensorrt(spec: EngineSpec) -> FeatureExtractor:
    from roadwork_serve.engines.tensorrt import TensorRtBackbone

    return TensorRtBackbone(
        Path(spec.model), side=spec.features.side, max_thumbs=spec.features.max_thumbs or _MAX_THUMBS
    )


def _rapidocr(spec: EngineSpec) -> OcrEngine:
    from roadwork_serve.engines.rapidocr import RapidOcr

    return RapidOcr(spec.model, threads=spec.threads, side=spec.ocr.side, device=spec.device)


def _florence2(spec: EngineSpec) -> OcrEngine:
    from roadwork_serve.engines.florence import Florence2

    return Florence2(spec.model, LoadOptions.of(spec))


def _transformers(spec: EngineSpec, workload: Workload) -> LanguageEngine:
    from roadwork_serve.engines.transformers import VisionLanguageEngine

    return VisionLanguageEngine(
        weights_folder(spec.model),
        LoadOptions.of(spec),
        max_pixels=spec.language.max_pixels,
        question_first=spec.language.question_first,
        sampling=spec.language.sampling,
    )


def _onnx_language(spec: EngineSpec, workload: Workload) -> LanguageEngine:
    from roadwork_serve.engines.onnx_language import OnnxLanguageEngine

    return OnnxLanguageEngine(
        weights_folder(spec.model),
        LoadOptions.of(spec),
        max_pixels=spec.language.max_pixels,
        question_first=spec.language.question_first,
    )


def _vllm(spec: EngineSpec, workload: Workload) -> LanguageEngine:
    from roadwork_serve.engines.vllm import VllmEngine

    return VllmEngine(
        spec.model_copy(update={"model": weights_folder(spec.model)}),
        photos=workload.photos,
        clips=workload.clips,
        concurrency=workload.concurrency,
        stuck_s=workload.stuck_s,
    )


def _openai(spec: EngineSpec, workload: Workload) -> LanguageEngine:
    from roadwork_serve.engines.openai import OpenAiEngine

    return OpenAiEngine(spec, timeout_s=workload.timeout_s)


_FEATURES: Mapping[str, Callable[[EngineSpec], FeatureExtractor]] = {
    "transformers": _backbone,
    "onnx": _onnx,
    "tensorrt": _tensorrt,
}
_OCR: Mapping[str, Callable[[EngineSpec], OcrEngine]] = {"rapidocr": _rapidocr, "transformers": _florence2}
_LANGUAGE: Mapping[str, Callable[[EngineSpec, Workload], LanguageEngine]] = {
    "transformers": _transformers,
    "onnx": _onnx_language,
    "vllm": _vllm,
    "openai": _openai,
}
