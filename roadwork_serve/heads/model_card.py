"""The model card of a head: training data, metrics and lineage."""

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
    """Everything that a head was made from."""

    #: SHA-256 of the training data.
    data: str
    #: Sources of the training data.
    origin: tuple[str, ...]
    #: Name of the backbone.
    model: str
    #: Fingerprint of the backbone's weights.
    backbone: str
    #: Commit of the code, with "+" when files were changed; empty outside a checkout.
    revision: str
    command: str
    settings: Mapping[str, object]
    settings_hash: str
    environment: Mapping[str, str]


def lineage(features: FeatureSet, settings: HeadTraining, command: str) -> Lineage:
    """Return the lineage of a head trained in this process."""
    settings_dict = asdict(settings)
    return Lineage(
        data=features.digest,
        origin=features.origin,
        model=features.model,
        backbone=features.backbone,
        revision=code_revision(),
        command=command,
        settings=settings_dict,
        settings_hash=hashlib.sha256(json.dumps(settings_dict, sort_keys=True).encode()).hexdigest(),
        environment=environment(),
    )


def model_card(features: FeatureSet, settings: HeadTraining, fit: HeadFit, line: Lineage, name: str) -> str:
    """Return the model card as Markdown."""
    head = fit.head.settings
    text_output = (
        "It also predicts whether a picture shows readable text."
        if "words" in head.outputs
        else "It has no output for readable text: it was known for too few rows."
    )
    return f"""# {name}

A head for stage 1 of roadwork-serve: is there active road work on a photo, from the features of a frozen backbone.
{text_output}

| | |
|---|---|
| backbone | {line.model}, weights {line.backbone or "not known"} |
| features | {head.recipe}, {head.width * len(head.recipe.split("+"))} numbers |
| layers | {f"LayerNorm, {head.hidden} hidden" if head.hidden else "linear"}, {", ".join(head.outputs)} |
| serve it | `features: {{head: FOLDER}}` of an engine in a profile, or `head: NAME` of stage 1 in a policy |

## Data

{_counts(features)}

{_table("source, licence", features, lambda item: (item.source or "not named", item.licence or "not named"))}
Origin: {"; ".join(line.origin) or "not named"}. If a licence above forbids it, do not
redistribute this head.

## Metrics

On {fit.val_metrics.groups} validation groups, which early stopping used, so slightly optimistic. A clip counts once.

{_scores({"validation": fit.val_metrics, "training": fit.train_metrics})}
{_balance(settings)} Calibrate its probabilities on other data with `roadwork calibrate`.

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
    for name, target, human in zip(features.name, features.target, features.human_labeled, strict=True):
        items[name] = float(target), bool(human)
    human = sum(human for _, human in items.values())
    positive = sum(target >= 0.5 for target, _ in items.values())
    known = len({n for n, words in zip(features.name, features.has_text, strict=True) if words == words})
    return (
        f"{len(items)} items ({len(features)} photos and frames) in {len(set(features.together))} groups that were "
        f"never split; {positive} with road work. {human} with a human or known label, {len(items) - human} by a "
        f"teacher. For {known} it was known whether they show readable text."
    )


def _table(title: str, features: FeatureSet, key: Callable[[SampleMetadata], tuple[str, str]]) -> str:
    if not features.metadata:
        return ""
    items = {metadata.name: metadata for metadata in features.metadata}
    counts = Counter((key(metadata), metadata.label) for metadata in items.values())
    lines = [f"| {title} | road work | none |", "|---|---|---|"]
    for name in sorted({name for name, _ in counts}):
        lines.append(f"| {', '.join(name)} | {counts[name, True]} | {counts[name, False]} |")
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
    if settings.positive_prior is None:
        return "Classes were not weighted."
    share = 0.5 if settings.positive_prior == "auto" else settings.positive_prior
    return f"Classes were weighted as if {share:.0%} of all pictures showed road work."
