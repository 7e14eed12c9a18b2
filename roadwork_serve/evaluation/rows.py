"""What was said of each labelled item, one row each: kept as JSON lines, because calibration is fitted on them."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.errors import ConfigError
from roadwork_serve.schema import ExitReason


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage's word.

    logit: None when it abstained. posterior: the cascade's belief after it; None when the stage was
    asked for comparison only, the cascade having left before it. ms: its share of what the model took for the batch.
    """

    stage: str
    logit: float | None
    posterior: float | None
    model: str
    miniature: bool
    text_probability: float | None = None
    tokens: int = 0
    ms: float = 0.0


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One item: what is true, the cascade's verdict, and every stage's word.

    weight: how many items of the traffic it stands for: one over the chance with which it was drawn.
    """

    about: SampleMetadata
    probability: float
    said: bool
    exit_stage: str
    exit_reason: ExitReason
    degraded: bool
    looks: tuple[StageRecord, ...]
    weight: float = 1.0

    @property
    def entered(self) -> tuple[str, ...]:
        """The stages the cascade itself asked, in order."""
        return tuple(look.stage for look in self.looks if look.posterior is not None)

    def look(self, stage: str) -> StageRecord | None:
        """What the stage said, if it was asked."""
        return next((look for look in self.looks if look.stage == stage), None)


def write_rows(path: Path, rows: Iterable[EvaluationRow]) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)


def read_rows(path: Path) -> list[EvaluationRow]:
    """The rows of a file. Raises ConfigError when it cannot be read, and naming the line that is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(
            f"the rows in {path} cannot be read: {told}; make them with "
            f"`roadwork evaluate --ask-everyone --rows {path}`"
        ) from None
    rows: list[EvaluationRow] = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_row(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{path}, line {number} is no row of an evaluation ({error}); write the file with "
                "`roadwork evaluate --rows`"
            ) from None
    return rows


def _row(fields: dict[str, Any]) -> EvaluationRow:
    about = fields.pop("about")
    looks = fields.pop("looks")
    about["tags"] = tuple(about["tags"])
    return EvaluationRow(about=SampleMetadata(**about), looks=tuple(StageRecord(**look) for look in looks), **fields)
