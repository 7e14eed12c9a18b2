"""Collects the features to train a head on: from labelled files, a journal, and feature files."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.datasets.base import CorruptItem
from roadwork_serve.datasets.registry import open_dataset
from roadwork_serve.engines.features import Head, Recipe
from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.heads.extract import CACHE, MAX_SKIPPED, extractor
from roadwork_serve.heads.feature_set import FeatureSet, concatenate, read_features
from roadwork_serve.heads.journal_features import features_from_journal
from roadwork_serve.journal.store import PASSWORD_VARIABLE, Store
from roadwork_serve.profiles.profile import Profile


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """The sources of features."""

    #: Dataset URIs, as `open_dataset` takes them.
    data: Sequence[str] = ()
    #: URL of a journal.
    journal: str | None = None
    #: Files written by `write_features`.
    files: Sequence[Path] = ()
    #: All features by default; cls when there is a journal, which stores no others.
    recipe: Recipe | None = None
    #: Backbone to use instead of the profile's.
    model: str | None = None
    #: Policy that computes pseudo-labels from the journal's later stages; the profile's by default.
    policy: str | None = None
    #: Folder of the feature cache.
    cache: Path = CACHE
    #: Number of corrupt files to tolerate.
    max_skipped: int = MAX_SKIPPED


@dataclass(frozen=True, slots=True)
class CollectedFeatures:
    """Features from all sources together."""

    features: FeatureSet
    #: The head stored beside the backbone's weights; None when no backbone was opened, or it has none.
    bundled_head: Head | None
    #: Corrupt files that were left out.
    skipped: tuple[CorruptItem, ...]
    #: Number of ignored items (annotators could not decide), which are left out.
    unclear: int


def collect_features(
    wanted: FeatureRequest, profile: Profile, on_done: Callable[[int, int], None] = lambda done, total: None
) -> CollectedFeatures:
    """Collect all features, reduced to the shortest recipe among them.

    on_done: called with the number of items just finished and the total. Raises ConfigError, ModelError.
    """
    parts = [read_features(file) for file in wanted.files]
    bundled_head, skipped, unclear = None, (), 0
    if wanted.journal is not None:
        parts.append(journal_features(wanted.journal, wanted.policy or profile.policy))
    if wanted.data:
        datasets = [open_dataset(uri, profile.task) for uri in wanted.data]
        total = sum(len(dataset.items()) for dataset in datasets)
        recipe: Recipe = wanted.recipe or ("cls" if wanted.journal else "cls+mean+max")
        source = extractor(profile, recipe, wanted.model, wanted.cache)
        found = source.extract(datasets, wanted.max_skipped, lambda done: on_done(done, total))
        parts.append(found.features)
        bundled_head, skipped, unclear = source.engine.head, found.skipped, found.unclear
    return CollectedFeatures(concatenate(parts), bundled_head, skipped, unclear)


def journal_features(journal: str, policy: str) -> FeatureSet:
    """Return the features of a journal, with the fingerprint of the backbone as it is installed now."""
    with closing(Store.open(journal, password=os.environ.get(PASSWORD_VARIABLE))) as store:
        found = features_from_journal(store.find(), load_policy(policy))
    return replace(found, backbone=found.backbone or fingerprint(weights_folder(found.model)))
