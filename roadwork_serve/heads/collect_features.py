"""Features from wherever they are to come: labelled files, a journal, and what was written before."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from roadwork_serve.calibration.sources import PASSWORD_VARIABLE
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.datasets.base import CorruptItem
from roadwork_serve.datasets.registry import open_dataset
from roadwork_serve.engines.features import Head, Recipe
from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.heads.extract import CACHE, MAX_SKIPPED, extractor
from roadwork_serve.heads.feature_set import FeatureSet, concatenate, read_features
from roadwork_serve.heads.journal_features import features_from_journal
from roadwork_serve.journal.store import Store
from roadwork_serve.profiles.profile import Profile


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """data: as `open_dataset` spells it. journal: a URL. files: of features written before.

    recipe: all that is there by default, cls where a journal takes part, which keeps no more. model: another backbone
    than the profile's. policy: by which the journal's later stages are believed, the profile's by default.
    """

    data: Sequence[str] = ()
    journal: str | None = None
    files: Sequence[Path] = ()
    recipe: Recipe | None = None
    model: str | None = None
    policy: str | None = None
    cache: Path = CACHE
    may_skip: int = MAX_SKIPPED


@dataclass(frozen=True, slots=True)
class CollectedFeatures:
    """shipped: the head that lies beside the backbone, where that was opened for files. unclear: items nobody could
    tell, left out. skipped: damaged files."""

    features: FeatureSet
    shipped: Head | None
    skipped: tuple[CorruptItem, ...]
    unclear: int


def collect_features(
    wanted: FeatureRequest, profile: Profile, on_done: Callable[[int, int], None] = lambda done, total: None
) -> CollectedFeatures:
    """All of it, by the shortest recipe among it. on_done: called with how many items more are done, and of how many.

    Raises ConfigError, ModelError.
    """
    parts = [read_features(file) for file in wanted.files]
    shipped, skipped, unclear = None, (), 0
    if wanted.journal is not None:
        parts.append(journal_features(wanted.journal, wanted.policy or profile.policy))
    if wanted.data:
        datasets = [open_dataset(spec) for spec in wanted.data]
        total = sum(len(dataset.listed()) for dataset in datasets)
        recipe: Recipe = wanted.recipe or ("cls" if wanted.journal else "cls+mean+max")
        maker = extractor(profile, recipe, wanted.model, wanted.cache)
        found = maker.extract(datasets, wanted.may_skip, lambda done: on_done(done, total))
        parts.append(found.features)
        shipped, skipped, unclear = maker.engine.head, found.skipped, found.unclear
    return CollectedFeatures(concatenate(parts), shipped, skipped, unclear)


def journal_features(journal: str, policy: str) -> FeatureSet:
    """What a journal holds, its backbone known by the weights that go by that name now."""
    with closing(Store.open(journal, password=os.environ.get(PASSWORD_VARIABLE))) as store:
        found = features_from_journal(store.find(), load_policy(policy))
    return replace(found, backbone=found.backbone or fingerprint(weights_folder(found.model)))
