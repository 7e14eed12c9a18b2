"""Export of the journal to FiftyOne, in the layout of its FiftyOneDataset type.

Sources: fiftyone/utils/data/importers.py (FiftyOneDatasetImporter) of release 1.22 for the layout, and
fiftyone/core/odm/dataset.py for the documents, in MongoDB's extended JSON.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from roadwork_serve.errors import ConfigError
from roadwork_serve.hashing import stable_uniform
from roadwork_serve.journal.active_learning import ActiveLearningScore, scored_rows
from roadwork_serve.journal.export import FIXED_COLUMNS, export_row
from roadwork_serve.journal.media_files import media_suffix
from roadwork_serve.journal.novelty import ReferenceSet
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.schema import MediaKind, StageReport

VERSION = "1.0.0"  # of the layout: FiftyOne migrates an older one, and rejects a newer one
INFORMATIVE = 0.5  # samples of at least this informativeness get the tag `informative`
FOLDERS: dict[MediaKind, str] = {"photo": "photos", "clip": "clips"}
_OTHERS = {"roadwork": "none", "none": "roadwork"}
_MEDIA: dict[MediaKind, str] = {"photo": "image", "clip": "video"}
_STRING, _FLOAT, _INTEGER, _FLAG, _TIME, _ID = "String", "Float", "Int", "Boolean", "DateTime", "ObjectId"
_BASE = {"filepath": _STRING, "_media_type": _STRING, "_rand": _FLOAT, "created_at": _TIME, "last_modified_at": _TIME}
_KINDS = {str: _STRING, float: _FLOAT, int: _INTEGER, bool: _FLAG, datetime: _TIME}
#: Names of columns that FiftyOne uses itself, or that a sample holds as a classification.
_RENAMED = {
    "id": "prediction_id",
    "created_at": "predicted_at",
    "media": "media_kind",
    "label": "predicted_label",
    "filename": "client_filename",
}
_COPIED = {name: kind for name, kind in FIXED_COLUMNS.items() if name != "human_label"}
_OWN = {
    "informativeness": _FLOAT,
    "novelty": _FLOAT,
    **{_RENAMED.get(name, name): _KINDS[kind] for name, kind in _COPIED.items()},
}
_PREDICTION = {"probability": _FLOAT, "posterior": _FLOAT, "model": _STRING, "deferred": _FLAG}


@dataclass(frozen=True, slots=True)
class DatasetCounts:
    """The samples of an export."""

    photos: int
    clips: int
    #: Predictions left out because their file is not stored.
    without_file: int


def write_dataset(
    folder: Path,
    rows: Iterable[JournalRow],
    read_media: Callable[[JournalRow], bytes | None],
    name: str,
    reference: ReferenceSet | None = None,
) -> DatasetCounts:
    """Write a dataset of photos to `folder/photos` and one of clips to `folder/clips`, each if there are any.

    FiftyOne separates images and videos, so there are two datasets: `name` and `name-clips`. Each sample has a
    classification by every stage, the `verdict`, the `ground_truth` if a person labelled it, tags (exit stage,
    degraded, arm, informative, audited, labeled), its informativeness and the columns of an export. Samples are written
    one by one under a temporary name; the folder appears complete or not at all.

    Raises ConfigError if the folder exists.
    """
    if folder.exists():
        raise ConfigError(f"{folder} already exists; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    drafts: dict[MediaKind, _Draft] = {}
    without_file = 0
    try:
        for row, score in scored_rows(rows, reference):
            data, kind = read_media(row), row.prediction.verdict.media
            if data is None:
                without_file += 1
                continue
            if kind not in drafts:
                drafts[kind] = _Draft(draft / FOLDERS[kind], kind, name if kind == "photo" else f"{name}-clips")
            drafts[kind].add(row, score, data)
        for each in drafts.values():
            each.finish()
        draft.rename(folder)
    except BaseException:
        for each in drafts.values():
            each.samples.close()
        shutil.rmtree(draft)
        raise
    counts = {kind: each.count for kind, each in drafts.items()}
    return DatasetCounts(counts.get("photo", 0), counts.get("clip", 0), without_file)


def push(folder: Path) -> dict[str, int]:
    """Import an export into FiftyOne's database, persistently. Returns the number of samples by dataset.

    Raises ConfigError if fiftyone or its database is not available, the folder contains no dataset, or the database has
    a dataset of that name.
    """
    found = [folder / each for each in FOLDERS.values() if (folder / each / "metadata.json").is_file()]
    if not found:
        raise ConfigError(
            f"{folder} contains no dataset; write one with `roadwork journal export --to fiftyone FOLDER`"
        )
    try:
        fiftyone = import_module("fiftyone")
    except ImportError:
        raise ConfigError(
            f"fiftyone is not installed; install it (pip install fiftyone), or import {folder} where it is installed"
        ) from None
    names = {each: json.loads((each / "metadata.json").read_text(encoding="utf-8"))["name"] for each in found}
    imported: dict[str, int] = {}
    try:
        existing = [name for name in names.values() if fiftyone.dataset_exists(name)]
        if not existing:
            for each, name in names.items():
                dataset = fiftyone.Dataset.from_dir(
                    dataset_dir=str(each), dataset_type=fiftyone.types.FiftyOneDataset, name=name, persistent=True
                )
                imported[name] = len(dataset)
    except Exception as error:  # its database raises errors of many kinds
        raise ConfigError(
            f"FiftyOne cannot import {folder}: {' '.join(str(error).split())[:300]}; its database is MongoDB; set "
            "FIFTYONE_DATABASE_URI to a server if fiftyone came without one"
        ) from None
    if existing:
        raise ConfigError(
            f"FiftyOne already has a dataset {existing[0]}; delete it there, or export under another name"
        )
    return imported


@dataclass(eq=False)
class _Draft:
    """A dataset that is being written."""

    folder: Path
    kind: MediaKind
    name: str
    count: int = 0
    stages: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        (self.folder / "data").mkdir(parents=True)
        self.samples = (self.folder / "samples.json").open("w", encoding="utf-8")
        self.samples.write('{"samples": [')

    def add(self, row: JournalRow, score: ActiveLearningScore, data: bytes) -> None:
        path = self.folder / "data" / f"{row.prediction.sha256}.{media_suffix(data)}"
        if not path.exists():
            path.write_bytes(data)
        sample = _sample(row, score, _MEDIA[self.kind]) | {"filepath": f"data/{path.name}"}
        reports = {report.stage: report for report in (*row.prediction.verdict.stages, *(row.audit or ()))}
        for stage in reports:
            if (report := row.report(stage)) is not None and report.probability is not None:
                if stage not in self.stages:
                    self.stages.append(stage)
                sample[stage] = _stage_prediction(row, report)
        self.samples.write((",\n" if self.count else "\n") + json.dumps(sample))
        self.count += 1

    def finish(self) -> None:
        self.samples.write("\n]}\n")
        self.samples.close()
        (self.folder / "metadata.json").write_text(json.dumps(self._metadata(), indent=1) + "\n", encoding="utf-8")

    def _metadata(self) -> dict[str, Any]:
        fields = [_field(name, kind) for name, kind in _BASE.items()]
        fields += [_field("id", _ID, "_id"), _field("_dataset_id", _ID), _listed("tags"), _listed("reasons")]
        fields += [_classification(name) for name in (*self.stages, "verdict", "ground_truth")]
        fields += [_field(name, kind) for name, kind in _OWN.items()]
        empty: dict[str, Any] = {key: {} for key in ("info", "classes", "mask_targets", "skeletons")}
        empty |= {key: {} for key in ("annotation_runs", "brain_methods", "evaluations", "runs")}
        empty |= {key: [] for key in ("tags", "default_classes", "frame_fields", "saved_views", "workspaces")}
        own = {"name": self.name, "version": VERSION, "media_type": _MEDIA[self.kind], "sample_fields": fields}
        return own | empty


def _sample(row: JournalRow, score: ActiveLearningScore, media: str) -> dict[str, Any]:
    prediction, verdict, annotation = row.prediction, row.prediction.verdict, row.annotation
    label = None if annotation is None else annotation.label
    tags = [verdict.exit.stage, *(name for name, holds in _tags(row, score).items() if holds)]
    values = {_RENAMED.get(name, name): value for name, value in export_row(row).items() if name in _COPIED}
    return {
        "_id": _object_id(prediction.id),
        "tags": tags if verdict.arm is None else [*tags, f"arm {verdict.arm}"],
        "_media_type": media,
        "_rand": stable_uniform("0", prediction.id),
        "verdict": _classified(
            prediction.id, "verdict", verdict.label, verdict.positive, probability=verdict.probability
        ),
        "ground_truth": None if label is None else _classified(prediction.id, "truth", label, bool(row.human_positive)),
        "informativeness": score.value,
        "novelty": None if math.isnan(score.novelty) else score.novelty,
        "reasons": [reason for reason, _ in score.reasons],
        **{name: _time(value) if isinstance(value, datetime) else value for name, value in values.items()},
    }


def _time(value: datetime) -> dict[str, str]:
    return {"$date": value.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"}


def _tags(row: JournalRow, score: ActiveLearningScore) -> dict[str, bool]:
    return {
        "degraded": row.prediction.verdict.degraded,
        "informative": score.value >= INFORMATIVE,
        "audited": row.audit is not None,
        "labeled": row.annotation is not None,
    }


def _stage_prediction(row: JournalRow, report: StageReport) -> dict[str, Any]:
    probability = float(report.probability or 0.0)
    return _classified(
        row.prediction.id,
        report.stage,
        _label_of(row, probability >= 0.5),
        probability >= 0.5,
        probability=probability,
        posterior=report.posterior,
        model=report.model,
        deferred=report not in row.prediction.verdict.stages,
    )


def _label_of(row: JournalRow, positive: bool) -> str:
    """Return the label that a stage's prediction stands for, as far as the row tells the names of the labels."""
    verdict, annotation = row.prediction.verdict, row.annotation
    if verdict.positive == positive:
        return verdict.label
    if annotation is not None and annotation.label is not None and row.human_positive == positive:
        return annotation.label
    return _OTHERS.get(verdict.label, f"not {verdict.label}")


def _classified(
    name: str, source: str, label: str, positive: bool, probability: float | None = None, **more: Any
) -> dict[str, Any]:
    found = {"_id": _object_id(name, source), "_cls": "Classification", "tags": [], "label": label}
    if probability is not None:
        found |= {"confidence": probability if positive else 1 - probability, "probability": probability}
    return found | more


def _object_id(*names: str) -> dict[str, str]:
    return {"$oid": sha256("/".join(names).encode()).hexdigest()[:24]}


def _field(name: str, kind: str, stored: str | None = None) -> dict[str, Any]:
    return {"name": name, "ftype": f"fiftyone.core.fields.{kind}Field", "db_field": stored or name}


def _listed(name: str) -> dict[str, Any]:
    return _field(name, "List") | {"subfield": "fiftyone.core.fields.StringField"}


def _classification(name: str) -> dict[str, Any]:
    inside = [_field("id", _ID, "_id"), _listed("tags"), _field("label", _STRING), _field("confidence", _FLOAT)]
    inside += [_field(each, kind) for each, kind in _PREDICTION.items()]
    return _field(name, "EmbeddedDocument") | {
        "embedded_doc_type": "fiftyone.core.labels.Classification",
        "fields": inside,
    }
