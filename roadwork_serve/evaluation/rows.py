"""Labelled items with the predictions made for them, stored as JSON lines: the data of calibration and tuning."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roadwork_serve.cascade.log_odds import logit
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.errors import ConfigError
from roadwork_serve.schema import ExitReason, StageReport


@dataclass(frozen=True, slots=True)
class StageRecord:
    """The prediction of one stage for one item."""

    stage: str
    #: None when the stage abstained.
    logit: float | None
    #: Posterior of the cascade after this stage; None when the item had exited and the stage ran for comparison only.
    posterior: float | None
    model: str
    miniature: bool
    text_probability: float | None = None
    tokens: int = 0
    #: The item's share of the time the model took for its batch.
    ms: float = 0.0


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One item: its label, the verdict of the cascade, and the prediction of every stage that ran."""

    metadata: SampleMetadata
    probability: float
    #: The label that the cascade predicted: True for roadwork.
    predicted_label: bool
    exit_stage: str
    exit_reason: ExitReason
    degraded: bool
    records: tuple[StageRecord, ...]
    #: Number of items of the traffic that this row stands for: 1 / sampling probability.
    weight: float = 1.0

    @property
    def entered(self) -> tuple[str, ...]:
        """The stages the cascade ran before the item exited, in order."""
        return tuple(record.stage for record in self.records if record.posterior is not None)

    def record(self, stage: str) -> StageRecord | None:
        """Return the prediction of a stage, or None if it did not run."""
        return next((record for record in self.records if record.stage == stage), None)


def stage_records(reports: Iterable[StageReport]) -> tuple[StageRecord, ...]:
    """Convert the reports of stages that answered or abstained; the others are dropped."""
    return tuple(
        StageRecord(
            stage=report.stage,
            logit=None if report.probability is None else logit(report.probability),
            posterior=report.posterior,
            model=report.model or "",
            miniature=report.miniature,
            text_probability=report.evidence.text_probability,
            tokens=report.tokens,
            ms=report.compute_ms / max(1, report.batch_size),
        )
        for report in reports
        if report.outcome in ("answered", "abstained")
    )


def write_rows(path: Path, rows: Iterable[EvaluationRow]) -> None:
    """Write the rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)


def read_rows(path: Path) -> list[EvaluationRow]:
    """Read a file of rows. Raises ConfigError when it cannot be read, naming the line that is malformed."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(
            f"the rows in {path} cannot be read: {cause}; make them with `roadwork evaluate --all-stages --rows {path}`"
        ) from None
    rows: list[EvaluationRow] = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_parse(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{path}, line {number} is not an evaluation row ({error}); write the file with "
                "`roadwork evaluate --rows`"
            ) from None
    return rows


def _parse(fields: dict[str, Any]) -> EvaluationRow:
    metadata = fields.pop("metadata")
    records = fields.pop("records")
    metadata["tags"] = tuple(metadata["tags"])
    return EvaluationRow(
        metadata=SampleMetadata(**metadata), records=tuple(StageRecord(**record) for record in records), **fields
    )
