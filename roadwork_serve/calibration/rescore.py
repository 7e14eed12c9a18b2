"""Recomputes stage 1's predictions with another head, from the features in the journal."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from roadwork_serve.engines.features import Head
from roadwork_serve.engines.thumbnails import ROADWORK
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow


def rescore(
    rows: Sequence[EvaluationRow], features: Mapping[str, NDArray[np.float16]], head: Head
) -> list[EvaluationRow]:
    """Return the rows with the predictions of another head of stage 1; rows without features are left out.

    features: by row name, float16 [frames, width]. The logit of a clip is the mean of its two highest frames, as in the
    stage. Up to the rounding of the features, that is what the server would predict. Raises ConfigError for a head that
    needs features the journal does not store.
    """
    if head.settings.recipe != "cls":
        raise ConfigError(
            f"the journal stores features of recipe cls, and this head needs {head.settings.recipe}; train one with cls"
        )
    known = [row for row in rows if row.metadata.name in features]
    if not known:
        return []
    frames = [np.asarray(features[row.metadata.name], np.float32) for row in known]
    boundaries = np.cumsum([len(each) for each in frames])[:-1]
    head = head.eval()
    with torch.inference_mode():
        logits = head(torch.from_numpy(np.concatenate(frames))).numpy()
    outputs = head.settings.outputs
    parts = np.split(logits, boundaries)
    return [_with_head(row, part, outputs) for row, part in zip(known, parts, strict=True)]


def _with_head(row: EvaluationRow, logits: NDArray[np.float32], outputs: tuple[str, ...]) -> EvaluationRow:
    """Return the row with stage 1's record replaced. logits: [frames, outputs]."""
    logit = float(np.sort(logits[:, outputs.index(ROADWORK)])[-2:].mean())
    text_probability = None
    if "words" in outputs:
        text_probability = float(expit(logits[:, outputs.index("words")].astype(np.float64)).max())
    records = tuple(
        replace(record, logit=logit, text_probability=text_probability, posterior=None)
        if record.stage == "backbone"
        else record
        for record in row.records
    )
    return replace(row, records=records)
