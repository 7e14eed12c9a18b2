"""The journal as datasets that FiftyOne imports, in the layout of its FiftyOneDataset type.

What is read there: fiftyone/utils/data/importers.py, FiftyOneDatasetImporter, of 1.22; the documents are those of
fiftyone/core/odm/dataset.py in MongoDB's extended JSON.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from roadwork_serve.errors import ConfigError
from roadwork_serve.hashing import stable_uniform
from roadwork_serve.journal.active_learning import ActiveLearningScore, scored_rows
from roadwork_serve.journal.novelty import ReferenceSet
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.schema import MediaKind, StageReport

VERSION = "1.0.0"  # of the layout: FiftyOne brings what an older one wrote up to date, and refuses a newer
HARD = 0.5  # from which hardness on the tag `hard` is given
FOLDERS: dict[MediaKind, str] = {"photo": "photos", "clip": "clips"}
_MEDIA: dict[MediaKind, str] = {"photo": "image", "clip": "video"}
_SUFFIXES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"\x1a\x45\xdf\xa3": "webm"}
_STRING, _FLOAT, _FLAG, _WHEN, _ID = "String", "Float", "Boolean", "DateTime", "ObjectId"
_BASE = {"filepath": _STRING, "_media_type": _STRING, "_rand": _FLOAT, "created_at": _WHEN, "last_modified_at": _WHEN}
_OWN = {
    "hardness": _FLOAT, "novelty": _FLOAT, "probability": _FLOAT, "at": _WHEN, "degraded": _FLAG, "audit": _FLOAT,
    "answer_id": _STRING, "request_id": _STRING, "key": _STRING, "caller": _STRING, "sha256": _STRING,
    "policy_version": _STRING, "exit_stage": _STRING, "exit_reason": _STRING, "arm": _STRING, "marked_by": _STRING,
    "note": _STRING,
}  # fmt: skip
_SAID = {"probability": _FLOAT, "posterior": _FLOAT, "model": _STRING, "beside": _FLAG}


@dataclass(frozen=True, slots=True)
class Written:
    """photos, clips: samples written. without_file: answers left out because their file is not kept."""

    photos: int
    clips: int
    without_file: int


def write_dataset(
    folder: Path,
    cases: Iterable[JournalRow],
    media_of: Callable[[JournalRow], bytes | None],
    name: str,
    reference: ReferenceSet | None = None,
) -> Written:
    """A dataset of photos in `folder/photos` and one of clips in `folder/clips`, each where there are any.

    FiftyOne keeps pictures and videos apart, so they are two: `name` and `name-clips`. Each sample has a
    classification by every stage that spoke, the `answer`, a `ground_truth` where a person marked it, tags (exit
    stage, degraded, arm, hard, surveyed, marked), hardness and what names the answer. Written case by case under a
    temporary name, and there whole or not at all. Raises ConfigError for a folder that is there already.
    """
    if folder.exists():
        raise ConfigError(f"{folder} is there already; name a folder that is not")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    drafts: dict[MediaKind, _Draft] = {}
    without_file = 0
    try:
        for case, how in scored_rows(cases, reference):
            data, kind = media_of(case), case.entry.verdict.media
            if data is None:
                without_file += 1
                continue
            if kind not in drafts:
                drafts[kind] = _Draft(draft / FOLDERS[kind], kind, name if kind == "photo" else f"{name}-clips")
            drafts[kind].add(case, how, data)
        for each in drafts.values():
            each.finish()
        draft.chmod(0o755)
        draft.rename(folder)
    except BaseException:
        for each in drafts.values():
            each.samples.close()
        shutil.rmtree(draft)
        raise
    counts = {kind: each.count for kind, each in drafts.items()}
    return Written(counts.get("photo", 0), counts.get("clip", 0), without_file)


def push(folder: Path) -> dict[str, int]:
    """Import what `write_dataset` wrote into FiftyOne's database, to stay. Returns the samples of each dataset.

    Raises ConfigError where fiftyone or its database is not at hand, the folder holds no dataset, or one of that name
    is in the database.
    """
    found = [folder / each for each in FOLDERS.values() if (folder / each / "metadata.json").is_file()]
    if not found:
        raise ConfigError(f"{folder} holds no dataset; write one with `roadwork journal export --to fiftyone FOLDER`")
    try:
        fiftyone = import_module("fiftyone")
    except ImportError:
        raise ConfigError(
            f"fiftyone is not installed; install it (pip install fiftyone), or import {folder} where it is"
        ) from None
    names = {each: json.loads((each / "metadata.json").read_text(encoding="utf-8"))["name"] for each in found}
    imported: dict[str, int] = {}
    try:
        there = [name for name in names.values() if fiftyone.dataset_exists(name)]
        if not there:
            for each, name in names.items():
                dataset = fiftyone.Dataset.from_dir(
                    dataset_dir=str(each), dataset_type=fiftyone.types.FiftyOneDataset, name=name, persistent=True
                )
                imported[name] = len(dataset)
    except Exception as error:  # of whatever its database raises
        raise ConfigError(
            f"FiftyOne cannot import {folder}: {' '.join(str(error).split())[:300]}; its database is MongoDB, set "
            "FIFTYONE_DATABASE_URI to a server where fiftyone brought none"
        ) from None
    if there:
        raise ConfigError(f"FiftyOne has a dataset {there[0]} already; delete it there, or export under another name")
    return imported


@dataclass(eq=False)
class _Draft:
    """One dataset that is being written."""

    folder: Path
    kind: MediaKind
    name: str
    count: int = 0
    stages: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        (self.folder / "data").mkdir(parents=True)
        self.samples = (self.folder / "samples.json").open("w", encoding="utf-8")
        self.samples.write('{"samples": [')

    def add(self, case: JournalRow, how: ActiveLearningScore, data: bytes) -> None:
        path = self.folder / "data" / f"{case.entry.sha256}.{suffix(data)}"
        if not path.exists():
            path.write_bytes(data)
        sample = _sample(case, how, _MEDIA[self.kind]) | {"filepath": f"data/{path.name}"}
        reports = {report.stage: report for report in (*case.entry.verdict.stages, *(case.audit or ()))}
        for stage in reports:
            if (report := case.report(stage)) is not None and report.probability is not None:
                if stage not in self.stages:
                    self.stages.append(stage)
                sample[stage] = _said(case, report)
        self.samples.write((",\n" if self.count else "\n") + json.dumps(sample))
        self.count += 1

    def finish(self) -> None:
        self.samples.write("\n]}\n")
        self.samples.close()
        (self.folder / "metadata.json").write_text(json.dumps(self._metadata(), indent=1) + "\n", encoding="utf-8")

    def _metadata(self) -> dict[str, Any]:
        fields = [_field(name, kind) for name, kind in _BASE.items()]
        fields += [_field("id", _ID, "_id"), _field("_dataset_id", _ID), _listed("tags"), _listed("reasons")]
        fields += [_classification(name) for name in (*self.stages, "answer", "ground_truth")]
        fields += [_field(name, kind) for name, kind in _OWN.items()]
        empty: dict[str, Any] = {key: {} for key in ("info", "classes", "mask_targets", "skeletons")}
        empty |= {key: {} for key in ("annotation_runs", "brain_methods", "evaluations", "runs")}
        empty |= {key: [] for key in ("tags", "default_classes", "frame_fields", "saved_views", "workspaces")}
        told = {"name": self.name, "version": VERSION, "media_type": _MEDIA[self.kind], "sample_fields": fields}
        return told | empty


def _sample(case: JournalRow, how: ActiveLearningScore, media: str) -> dict[str, Any]:
    entry, verdict, mark = case.entry, case.entry.verdict, case.mark
    truth = None if mark is None or mark.label is None else _classified(entry.id, "truth", mark.label)
    tags = [verdict.exit.stage, *(name for name, holds in _tags(case, how).items() if holds)]
    return {
        "_id": _object_id(entry.id),
        "tags": tags if verdict.arm is None else [*tags, f"arm {verdict.arm}"],
        "_media_type": media,
        "_rand": stable_uniform("0", entry.id),
        "answer": _classified(entry.id, "answer", verdict.label, probability=verdict.probability),
        "ground_truth": truth,
        "hardness": how.value,
        "novelty": how.novelty if how.novelty == how.novelty else None,
        "reasons": [reason for reason, _ in how.reasons],
        "probability": verdict.probability,
        "at": {"$date": datetime.fromtimestamp(entry.at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"},
        "degraded": verdict.degraded,
        "audit": entry.audit,
        "answer_id": entry.id,
        "request_id": verdict.request_id,
        "key": entry.key,
        "caller": entry.caller,
        "sha256": entry.sha256,
        "policy_version": verdict.policy_version,
        "exit_stage": verdict.exit.stage,
        "exit_reason": verdict.exit.reason,
        "arm": verdict.arm,
        "marked_by": None if mark is None else mark.by,
        "note": None if mark is None else mark.note,
    }


def _tags(case: JournalRow, how: ActiveLearningScore) -> dict[str, bool]:
    return {
        "degraded": case.entry.verdict.degraded,
        "hard": how.value >= HARD,
        "audited": case.audit is not None,
        "marked": case.mark is not None,
    }


def _said(case: JournalRow, report: StageReport) -> dict[str, Any]:
    said = float(report.probability or 0.0)
    return _classified(
        case.entry.id,
        report.stage,
        "roadwork" if said >= 0.5 else "none",
        probability=said,
        posterior=report.posterior,
        model=report.model,
        beside=report not in case.entry.verdict.stages,
    )


def _classified(name: str, by: str, label: str, probability: float | None = None, **more: Any) -> dict[str, Any]:
    told = {"_id": _object_id(name, by), "_cls": "Classification", "tags": [], "label": label}
    if probability is not None:
        told |= {"confidence": probability if label == "roadwork" else 1 - probability, "probability": probability}
    return told | more


def _object_id(*names: str) -> dict[str, str]:
    return {"$oid": sha256("/".join(names).encode()).hexdigest()[:24]}


def _field(name: str, kind: str, stored: str | None = None) -> dict[str, Any]:
    return {"name": name, "ftype": f"fiftyone.core.fields.{kind}Field", "db_field": stored or name}


def _listed(name: str) -> dict[str, Any]:
    return _field(name, "List") | {"subfield": "fiftyone.core.fields.StringField"}


def _classification(name: str) -> dict[str, Any]:
    inside = [_field("id", _ID, "_id"), _listed("tags"), _field("label", _STRING), _field("confidence", _FLOAT)]
    inside += [_field(each, kind) for each, kind in _SAID.items()]
    return _field(name, "EmbeddedDocument") | {
        "embedded_doc_type": "fiftyone.core.labels.Classification",
        "fields": inside,
    }


def suffix(data: bytes) -> str:
    """What a file of these bytes is called by."""
    return next((suffix for magic, suffix in _SUFFIXES.items() if data.startswith(magic)), "mp4")
