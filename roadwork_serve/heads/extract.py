"""Labelled files to features of a frozen backbone, seen exactly as serving sees them, and each file only once."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roadwork_serve import media
from roadwork_serve.datasets.base import CorruptItem, Dataset, DatasetItem
from roadwork_serve.datasets.samples import Sample
from roadwork_serve.engines.features import FeatureEngine, Recipe
from roadwork_serve.engines.weights import weights_folder as folder_of
from roadwork_serve.errors import ConfigError, MediaError, ModelError
from roadwork_serve.heads.feature_cache import FeatureCache, Features, identity_of, origin_of
from roadwork_serve.heads.feature_set import FeatureSet
from roadwork_serve.profiles.profile import MediaLimits, Profile

CACHE = Path("build/features")
MAX_SKIPPED = 20
_SHARD = 256  # items
_READERS = 2


@dataclass(frozen=True, slots=True)
class ExtractedFeatures:
    """features: of everything that could be used. skipped: damaged files, named.

    unclear: listed items that people could not tell, which nothing is learned from. kept: items found in the cache.
    """

    features: FeatureSet
    skipped: tuple[CorruptItem, ...]
    unclear: int
    kept: int


@dataclass(slots=True)
class _Taken:
    """Of one run, so far. items: what is listed and its identity, in order."""

    may_skip: int
    items: list[tuple[str, DatasetItem, str]] = field(default_factory=list)
    skipped: list[CorruptItem] = field(default_factory=list)
    unclear: int = 0
    kept: int = 0

    def skip(self, damaged: CorruptItem) -> None:
        self.skipped.append(damaged)
        if len(self.skipped) > self.may_skip:
            told = "; ".join(f"{each.name}: {each.why}" for each in self.skipped[:5])
            raise ConfigError(
                f"more than {self.may_skip} files cannot be used, among them {told}. Mend the data, or allow more with "
                "--may-skip"
            )


class Extractor:
    """A backbone with what it sees. engine: whose weights are frozen. limits: as the server reads files."""

    def __init__(
        self, engine: FeatureEngine, limits: MediaLimits, recipe: Recipe, cache: Path = CACHE, model: str = ""
    ) -> None:
        if not engine.fingerprint:
            raise ModelError(f"{engine.name} has no safetensors on this machine to know it by; download it first")
        self.engine, self.limits, self.model = engine, limits, model or engine.name
        self.recipe: Recipe = recipe
        dtype = str(engine.model.dtype).removeprefix("torch.")
        self.cache = FeatureCache(cache, origin_of(self.model, engine.fingerprint, recipe, dtype, limits))

    def extract(
        self, datasets: Sequence[Dataset], may_skip: int = MAX_SKIPPED, on_done: Callable[[int], None] = lambda _: None
    ) -> ExtractedFeatures:
        """The features of every listed item, in order; of a clip every frame is a row, and all together weigh one.

        may_skip: damaged files that are left out, and said, before it is given up. on_done: called with how many items
        more are done. Raises ConfigError where more are damaged, where files of the same bytes are labelled both ways,
        or where nothing is left.
        """
        taken = _Taken(may_skip)
        for dataset in datasets:
            self._take(dataset, taken, on_done)
        return ExtractedFeatures(self._set(taken, datasets), tuple(taken.skipped), taken.unclear, taken.kept)

    def _take(self, dataset: Dataset, taken: _Taken, on_done: Callable[[int], None]) -> None:
        listed = dataset.listed()
        wanted = [each for each in listed if each.about.scored]
        taken.unclear += len(listed) - len(wanted)
        on_done(len(listed) - len(wanted))
        identities = {each.at: each.identity for each in wanted if each.identity in self.cache}
        taken.kept += len(identities)
        on_done(len(identities))
        missing = [each for each in wanted if each.at not in identities]
        with closing(dataset.samples(missing)) as samples:
            for part in _parts(zip(missing, samples, strict=True), _SHARD):
                self._part(part, identities, taken)
                on_done(len(part))
        taken.items += [(dataset.spec, each, identities[each.at]) for each in wanted if each.at in identities]

    def _part(
        self, part: Sequence[tuple[DatasetItem, Sample | CorruptItem]], identities: dict[str, str], taken: _Taken
    ) -> None:
        """Some items: those that are new become a shard, whatever becomes of the rest."""
        made: dict[str, Features] = {}
        try:
            with ThreadPoolExecutor(_READERS) as pool:
                for (each, sample), seen in zip(part, pool.map(self._read, part), strict=True):
                    if isinstance(sample, CorruptItem) or isinstance(seen, str):
                        taken.skip(
                            sample if isinstance(sample, CorruptItem) else CorruptItem(each.about.name, str(seen))
                        )
                        continue
                    identity = each.identity or identity_of(sample.data)
                    identities[each.at] = identity
                    if seen is None:
                        taken.kept += 1
                    elif identity not in made:
                        made[identity] = self.engine.features(seen, self.recipe).cpu().numpy()
        finally:
            self.cache.put(made)

    def _read(self, pair: tuple[DatasetItem, Sample | CorruptItem]) -> NDArray[np.uint8] | str | None:
        """What stage 1 sees of it, or what is wrong with it; None where its features are kept."""
        each, sample = pair
        if isinstance(sample, CorruptItem) or (each.identity or identity_of(sample.data)) in self.cache:
            return None
        try:
            return media.read(sample.data, self.limits).thumbs
        except MediaError as error:
            return str(error)

    def _set(self, taken: _Taken, datasets: Sequence[Dataset]) -> FeatureSet:
        items = list(_once(taken.items))
        if not items:
            raise ConfigError("none of the data can be used: every file is damaged, or no one could tell its label")
        found = self.cache.get({identity for _, _, identity in items})
        rows = [(spec, each, found[identity]) for spec, each, identity in items]
        counts = np.array([len(x) for _, _, x in rows])

        def each_row(values: Iterable[float]) -> NDArray[np.float32]:
            return np.repeat(np.array(list(values), np.float32), counts)

        plain = [each.about.name for _, each, _ in rows]
        names = plain if len(set(plain)) == len(plain) else [f"{spec} {each.about.name}" for spec, each, _ in rows]
        return FeatureSet(
            model=self.model,
            recipe=self.recipe,
            x=np.concatenate([x for _, _, x in rows]),
            target=each_row(each.about.label for _, each, _ in rows),
            human_labeled=~each_row(each.about.taught for _, each, _ in rows).astype(bool),
            weight=each_row(1 / counts),
            words=each_row(each.words for _, each, _ in rows),
            group=tuple(each.about.group for _, each, x in rows for _ in x),
            name=tuple(name for name, (_, _, x) in zip(names, rows, strict=True) for _ in x),
            backbone=self.engine.fingerprint,
            about=tuple(each.about for _, each, x in rows for _ in x),
            origin=tuple(f"{each.spec} (features {self.cache.maker.key})" for each in datasets),
        )


def extractor(profile: Profile, recipe: Recipe, model: str | None = None, cache: Path = CACHE) -> Extractor:
    """Of the backbone that a profile serves, or of another in its place. Raises ModelError, ConfigError."""
    spec = profile.engines[profile.stages["backbone"].engine]
    if spec.runs != "transformers" and model is None:
        raise ConfigError(
            f"profile {profile.name} serves stage 1 by {spec.runs}, which tells no features: name the backbone it was "
            "exported from with --model"
        )
    engine = FeatureEngine(
        folder_of(model or spec.model),
        dtype=spec.dtype,
        device=spec.device,
        threads=spec.threads,
        head_folder=Path(spec.features.head) if spec.features.head and model is None else None,
        side=profile.media.thumb_side,
        max_thumbs=spec.features.max_thumbs or 16,
        compile=False,
        revision=spec.revision if model is None else None,
        trust_remote_code=spec.trust_remote_code,
    )
    return Extractor(engine, profile.media, recipe, cache, model or spec.model)


def _once(items: Sequence[tuple[str, DatasetItem, str]]) -> Iterator[tuple[str, DatasetItem, str]]:
    """Each file once, however often it is listed. Raises ConfigError where its labels disagree."""
    seen: dict[str, DatasetItem] = {}
    for spec, each, identity in items:
        if (before := seen.get(identity)) is None:
            seen[identity] = each
            yield spec, each, identity
        elif before.about.label != each.about.label:
            raise ConfigError(
                f"{before.about.name} and {each.about.name} are the same file, one labelled road work and one none: "
                "take one of them out"
            )


def _parts(
    pairs: Iterable[tuple[DatasetItem, Sample | CorruptItem]], size: int
) -> Generator[list[tuple[DatasetItem, Sample | CorruptItem]]]:
    part: list[tuple[DatasetItem, Sample | CorruptItem]] = []
    held = 0
    for pair in pairs:
        part.append(pair)
        held += 0 if isinstance(pair[1], CorruptItem) else len(pair[1].data)
        if len(part) >= size or held > 256 * 2**20:
            yield part
            part, held = [], 0
    if part:
        yield part
