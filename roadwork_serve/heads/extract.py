"""Extracts features of labelled files with a frozen backbone, preprocessed as in serving. Each file is read once."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roadwork_serve import media
from roadwork_serve.datasets.base import CorruptItem, Dataset, DatasetItem, first_reasons, nothing_usable
from roadwork_serve.datasets.samples import Sample
from roadwork_serve.engines.features import FeatureEngine, Recipe
from roadwork_serve.engines.load_options import LoadOptions
from roadwork_serve.engines.registry import is_exported_file
from roadwork_serve.engines.weights import weights_folder as folder_of
from roadwork_serve.errors import ConfigError, MediaError, ModelError
from roadwork_serve.heads.feature_cache import FeatureCache, Features, identity_of, origin_of
from roadwork_serve.heads.feature_set import FeatureSet
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.profiles.profile import Profile

CACHE = Path("build/features")
MAX_SKIPPED = 20
_SHARD = 256  # items
_READERS = 2


@dataclass(frozen=True, slots=True)
class ExtractedFeatures:
    """Features of every usable item."""

    features: FeatureSet
    #: Corrupt files that were left out.
    skipped: tuple[CorruptItem, ...]
    #: Number of ignored items (annotators could not decide), which are left out.
    unclear: int
    #: Number of items whose features were in the cache.
    cached: int


@dataclass(slots=True)
class _Progress:
    """The state of one extraction."""

    max_skipped: int
    #: Dataset URI, item and identity, in order.
    items: list[tuple[str, DatasetItem, str]] = field(default_factory=list)
    skipped: list[CorruptItem] = field(default_factory=list)
    unclear: int = 0
    cached: int = 0

    def skip(self, item: CorruptItem) -> None:
        """Record a corrupt file. Raises ConfigError when there are too many."""
        self.skipped.append(item)
        if len(self.skipped) > self.max_skipped:
            raise ConfigError(
                f"more than {self.max_skipped} files cannot be used, among them {first_reasons(self.skipped)}. Repair "
                "the data, or allow more with --max-skipped"
            )


class Extractor:
    """Extracts features of files with a backbone, and caches them.

    engine: the backbone. limits: preprocessing, as in serving. Raises ModelError without local weights.
    """

    def __init__(
        self, engine: FeatureEngine, limits: MediaLimits, recipe: Recipe, cache: Path = CACHE, model: str = ""
    ) -> None:
        if not engine.fingerprint:
            raise ModelError(
                f"{engine.name} has no safetensors on this machine to compute a fingerprint from; download it first"
            )
        self.engine, self.limits, self.model = engine, limits, model or engine.name
        self.recipe: Recipe = recipe
        self.cache = FeatureCache(cache, origin_of(self.model, engine, recipe, limits))

    def extract(
        self,
        datasets: Sequence[Dataset],
        max_skipped: int = MAX_SKIPPED,
        on_done: Callable[[int], None] = lambda _: None,
    ) -> ExtractedFeatures:
        """Extract the features of every item, in order. Each frame of a clip is a row; a clip's weights add up to one.

        max_skipped: number of corrupt files to tolerate. on_done: called with the number of items just finished. Raises
        ConfigError when more files are corrupt, when identical files have different labels, or when nothing is left.
        """
        progress = _Progress(max_skipped)
        for dataset in datasets:
            self._extract_dataset(dataset, progress, on_done)
        return ExtractedFeatures(
            self._feature_set(progress, datasets), tuple(progress.skipped), progress.unclear, progress.cached
        )

    def _extract_dataset(self, dataset: Dataset, progress: _Progress, on_done: Callable[[int], None]) -> None:
        listed = dataset.items()
        wanted = [each for each in listed if not each.metadata.ignore]
        progress.unclear += len(listed) - len(wanted)
        on_done(len(listed) - len(wanted))
        identities = {each.at: each.identity for each in wanted if each.identity in self.cache}
        progress.cached += len(identities)
        on_done(len(identities))
        missing = [each for each in wanted if each.at not in identities]
        with closing(dataset.samples(missing)) as samples:
            for part in _parts(zip(missing, samples, strict=True), _SHARD):
                self._extract_batch(part, identities, progress)
                on_done(len(part))
        progress.items += [(dataset.uri, each, identities[each.at]) for each in wanted if each.at in identities]

    def _extract_batch(
        self, part: Sequence[tuple[DatasetItem, Sample | CorruptItem]], identities: dict[str, str], progress: _Progress
    ) -> None:
        """Extract some items. New features are stored in the cache even if an error follows."""
        made: dict[str, Features] = {}
        try:
            with ThreadPoolExecutor(_READERS) as pool:
                for (each, sample), seen in zip(part, pool.map(self._read, part), strict=True):
                    if isinstance(sample, CorruptItem) or isinstance(seen, str):
                        progress.skip(
                            sample if isinstance(sample, CorruptItem) else CorruptItem(each.metadata.name, str(seen))
                        )
                        continue
                    identity = each.identity or identity_of(sample.data)
                    identities[each.at] = identity
                    if seen is None:
                        progress.cached += 1
                    elif identity not in made:
                        made[identity] = self.engine.features(seen, self.recipe).cpu().numpy()
        finally:
            self.cache.put(made)

    def _read(self, pair: tuple[DatasetItem, Sample | CorruptItem]) -> NDArray[np.uint8] | str | None:
        """Return the thumbnails of an item, or what is wrong with it; None when its features are cached."""
        each, sample = pair
        if isinstance(sample, CorruptItem) or (each.identity or identity_of(sample.data)) in self.cache:
            return None
        try:
            return media.read(sample.data, self.limits).thumbs
        except MediaError as error:
            return str(error)

    def _feature_set(self, progress: _Progress, datasets: Sequence[Dataset]) -> FeatureSet:
        items = list(_once(progress.items))
        if not items:
            raise nothing_usable(progress.skipped, progress.unclear)
        found = self.cache.get({identity for _, _, identity in items})
        rows = [(uri, each, found[identity]) for uri, each, identity in items]
        counts = np.array([len(x) for _, _, x in rows])

        def each_row(values: Iterable[float]) -> NDArray[np.float32]:
            return np.repeat(np.array(list(values), np.float32), counts)

        plain = [each.metadata.name for _, each, _ in rows]
        names = plain if len(set(plain)) == len(plain) else [f"{uri} {each.metadata.name}" for uri, each, _ in rows]
        return FeatureSet(
            model=self.model,
            recipe=self.recipe,
            x=np.concatenate([x for _, _, x in rows]),
            target=each_row(each.metadata.label for _, each, _ in rows),
            human_labeled=~each_row(each.metadata.pseudo_labeled for _, each, _ in rows).astype(bool),
            weight=each_row(1 / counts),
            has_text=each_row(each.has_text for _, each, _ in rows),
            group=tuple(each.metadata.group for _, each, x in rows for _ in x),
            name=tuple(name for name, (_, _, x) in zip(names, rows, strict=True) for _ in x),
            backbone=self.engine.fingerprint,
            metadata=tuple(each.metadata for _, each, x in rows for _ in x),
            origin=tuple(f"{each.uri} (features {self.cache.origin.key})" for each in datasets),
        )


def extractor(profile: Profile, recipe: Recipe, model: str | None = None, cache: Path = CACHE) -> Extractor:
    """Return an extractor for the backbone of a profile, or for another model. Raises ModelError, ConfigError."""
    spec = profile.engines[profile.stages["backbone"].engine]
    if model is None and is_exported_file(spec):
        raise ConfigError(
            f"profile {profile.name} serves stage 1 by {spec.backend}, which returns no features: name the backbone it "
            "was exported from with --model"
        )
    engine = FeatureEngine(
        folder_of(model or spec.model),
        replace(
            LoadOptions.of(spec),
            revision=spec.revision if model is None else None,
            gpu_memory_gib=None,
            dtype="float32" if spec.dtype == "auto" else spec.dtype,  # 8 bits only approximate these features
        ),
        head_folder=Path(spec.features.head) if spec.features.head and model is None else None,
        side=profile.media.thumb_side,
        max_thumbs=spec.features.max_thumbs or 16,
        compile=False,
    )
    return Extractor(engine, profile.media, recipe, cache, model or spec.model)


def _once(items: Sequence[tuple[str, DatasetItem, str]]) -> Iterator[tuple[str, DatasetItem, str]]:
    """Yield each file once, however often it is listed. Raises ConfigError when its labels disagree."""
    seen: dict[str, DatasetItem] = {}
    for uri, each, identity in items:
        if (before := seen.get(identity)) is None:
            seen[identity] = each
            yield uri, each, identity
        elif before.metadata.label != each.metadata.label:
            raise ConfigError(
                f"{before.metadata.name} and {each.metadata.name} are the same file, one labelled road work and one "
                "none: remove one of them"
            )


def _parts(
    pairs: Iterable[tuple[DatasetItem, Sample | CorruptItem]], size: int
) -> Generator[list[tuple[DatasetItem, Sample | CorruptItem]]]:
    part: list[tuple[DatasetItem, Sample | CorruptItem]] = []
    size_bytes = 0
    for pair in pairs:
        part.append(pair)
        size_bytes += 0 if isinstance(pair[1], CorruptItem) else len(pair[1].data)
        if len(part) >= size or size_bytes > 256 * 2**20:
            yield part
            part, size_bytes = [], 0
    if part:
        yield part
