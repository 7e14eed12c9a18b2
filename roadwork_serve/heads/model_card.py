"""The card of a head: what it learned from, how well it does, and where all of it came from."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.heads.feature_set import FeatureSet
from roadwork_serve.heads.fit import HeadFit, HeadTraining
from roadwork_serve.heads.head_metrics import HeadMetrics
from roadwork_serve.provenance import code_revision, environment


@dataclass(frozen=True, slots=True)
class Lineage:
    """data: SHA-256 of all that the head learned from. origin: what that was taken from. backbone: its fingerprint.

    revision: of the code, as git has it; empty outside a checkout, with a plus where files had been changed.
    """

    data: str
    origin: tuple[str, ...]
    model: str
    backbone: str
    revision: str
    command: str
    settings: Mapping[str, object]
    settings_hash: str
    environment: Mapping[str, str]


def lineage(features: FeatureSet, settings: HeadTraining, command: str) -> Lineage:
    """Of a head that is trained here and now."""
    told = asdict(settings)
    return Lineage(
        data=features.digest,
        origin=features.origin,
        model=features.model,
        backbone=features.backbone,
        revision=code_revision(),
        command=command,
        settings=told,
        settings_hash=hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest(),
        environment=environment(),
    )


def model_card(features: FeatureSet, settings: HeadTraining, fit: HeadFit, line: Lineage, name: str) -> str:
    """The model card, Markdown."""
    head = fit.head.settings
    words = (
        "It also says whether words worth reading are on a picture."
        if "words" in head.outputs
        else "It says nothing of words: too few rows said whether there are any."
    )
    return f"""# {name}

A head for stage 1 of roadwork-serve: is there active road work on a photo, from the features of a frozen backbone.
{words}

| | |
|---|---|
| backbone | {line.model}, weights {line.backbone or "not known"} |
| features | {head.recipe}, {head.width * len(head.recipe.split("+"))} numbers |
| layers | LayerNorm, {head.hidden} hidden, {", ".join(head.outputs)} |
| serve it | `features: {{head: FOLDER}}` of an engine in a profile, or `head: FOLDER` of stage 1 in a policy |

## Data

{_counts(features)}

{_table("source, licence", features, lambda about: (about.source or "not named", about.licence or "not named"))}
Origin: {"; ".join(line.origin) or "not named"}. Where a licence above does not allow it, this head may not be
passed on.

## How well it does

Groups that were kept to stop by, {fit.held.groups} of them, which flatters it a little. A clip counts once.

{_scores({"kept": fit.held, "learned from": fit.taught})}
{_balance(settings)} How far its probabilities are to be believed `roadwork calibrate` finds out, on other data.

## Lineage

| | |
|---|---|
| data | SHA-256 {line.data} |
| settings | SHA-256 {line.settings_hash}, seed {settings.seed} |
| stopped | best after epoch {fit.best_epoch + 1} of {fit.epochs}, {fit.seconds:.1f} s |
| code | {line.revision or "not a checkout"} |
| command | `{line.command}` |
| made | {line.environment["date"]}, torch {line.environment["torch"]}, {line.environment["cpu"]} |
"""


def _counts(features: FeatureSet) -> str:
    items: dict[str, tuple[float, bool]] = {}
    for name, target, people in zip(features.name, features.target, features.human_labeled, strict=True):
        items[name] = float(target), bool(people)
    people = sum(said for _, said in items.values())
    positive = sum(target >= 0.5 for target, _ in items.values())
    known = len({n for n, words in zip(features.name, features.words, strict=True) if words == words})
    return (
        f"{len(items)} items ({len(features)} photos and frames) in {len(set(features.together))} groups that were "
        f"never parted; {positive} with road work. {people} labelled by people or known, {len(items) - people} by a "
        f"teacher. Of {known} it was known whether words are on them."
    )


def _table(title: str, features: FeatureSet, key: Callable[[SampleMetadata], tuple[str, str]]) -> str:
    if not features.about:
        return ""
    items = {about.name: about for about in features.about}
    counts = Counter((key(about), about.label) for about in items.values())
    lines = [f"| {title} | road work | none |", "|---|---|---|"]
    for what in sorted({what for what, _ in counts}):
        lines.append(f"| {', '.join(what)} | {counts[what, True]} | {counts[what, False]} |")
    return "\n".join(lines) + "\n"


def _scores(parts: Mapping[str, HeadMetrics]) -> str:
    lines = ["| | items | road work | log loss | accuracy | AUC | Brier | ECE |", "|---|---|---|---|---|---|---|---|"]
    for name, each in parts.items():
        values = (each.log_loss, each.accuracy, each.auc, each.brier, each.ece)
        lines.append(
            f"| {name} | {each.n} | {each.positives} | " + " | ".join(f"{value:.3f}" for value in values) + " |"
        )
    return "\n".join(lines) + "\n"


def _balance(settings: HeadTraining) -> str:
    if settings.balance is None:
        return "Classes were taken as they came."
    share = 0.5 if settings.balance == "auto" else settings.balance
    return f"Classes were weighed as if {share:.0%} of all pictures showed road work."
