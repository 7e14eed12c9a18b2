"""What another head of stage 1 would have said of answers in the journal, from the features that were kept of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from roadwork_serve.engines.features import Head
from roadwork_serve.engines.thumbnails import ROADWORK
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow


def rescore(
    rows: Sequence[EvaluationRow], features: Mapping[str, NDArray[np.float16]], head: Head
) -> list[EvaluationRow]:
    """The rows with stage 1's word replaced by that of a head; those without features are left out.

    features: by the row's name, float16 [frames, width]; of a clip the logit is the mean of its frames' two highest, as
    the stage has it. It is what the server would say, but for the rounding of the features. Raises ConfigError for a
    head that goes by more than is kept.
    """
    if head.settings.recipe != "cls":
        raise ConfigError(f"the journal keeps what recipe cls goes by, and this head's is {head.settings.recipe}")
    known = [row for row in rows if row.about.name in features]
    if not known:
        return []
    frames = [np.asarray(features[row.about.name], np.float32) for row in known]
    cuts = np.cumsum([len(each) for each in frames])[:-1]
    head = head.eval()
    with torch.inference_mode():
        told = head(torch.from_numpy(np.concatenate(frames))).numpy()
    outputs = head.settings.outputs
    parts = np.split(told, cuts)
    return [_heard(row, part, outputs) for row, part in zip(known, parts, strict=True)]


def _heard(row: EvaluationRow, logits: NDArray[np.float32], outputs: tuple[str, ...]) -> EvaluationRow:
    """logits: [frames, outputs]."""
    logit = float(np.sort(logits[:, outputs.index(ROADWORK)])[-2:].mean())
    likely = None
    if "words" in outputs:
        likely = float((1 / (1 + np.exp(-logits[:, outputs.index("words")].astype(np.float64)))).max())
    looks = tuple(
        replace(look, logit=logit, text_probability=likely, posterior=None) if look.stage == "backbone" else look
        for look in row.looks
    )
    return replace(row, looks=looks)
