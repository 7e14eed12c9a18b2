"""Evaluation rows whose right calibration is known."""

import numpy as np

from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.evaluation.rows import EvaluationRow, StageRecord


def synthetic_rows(count: int, seed: int = 0) -> list[EvaluationRow]:
    """Return rows in which stage 1 is twice overconfident and weak on hard items; the later stages are better."""
    rng = np.random.default_rng(seed)
    rows: list[EvaluationRow] = []
    for index in range(count):
        kind = "clip" if index % 10 == 9 else "photo"
        label, hard = bool(rng.random() < 0.5), rng.random() < 0.3
        sign = 1 if label else -1
        backbone = 2 * rng.normal(0.3 * sign if hard else 5 * sign, 0.75 if hard else 3)
        logits: dict[str, float | None] = {"backbone": backbone}
        if kind == "photo":
            logits["signs"] = 4.0 * sign if hard and rng.random() < 0.2 else None
            logits["vlm"] = rng.normal(3 * sign, 2.4)
            logits["reasoner"] = rng.normal(4 * sign, 2.0)
        else:
            logits["video"] = rng.normal(4 * sign, 2.0)
        likely = 0.9 if logits.get("signs") else 0.2
        records = [StageRecord(s, v, None, "m", True, likely if s == "backbone" else None) for s, v in logits.items()]
        metadata = SampleMetadata(f"{kind}-{index}", kind, label, seed=5_001_000_000 + index)
        rows.append(EvaluationRow(metadata, 0.5, True, "backbone", "last_stage", False, tuple(records)))
    return rows
