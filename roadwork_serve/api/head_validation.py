"""Validation of the heads that a policy names, before it becomes active."""

import time
import uuid
from collections.abc import Mapping

import numpy as np

from roadwork_serve.cascade.prediction import Item, StageClient
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import PolicyRefused, StageFailed
from roadwork_serve.profiles.media_limits import MediaLimits

_TIMEOUT_S = 20.0


async def validate_heads(rollout: Rollout, clients: Mapping[str, StageClient], media: MediaLimits) -> None:
    """Run stage 1 on a grey image with each head that the rollout names. Raises PolicyRefused if one fails."""
    steps = (step for policy in rollout.policies for step in policy.photo + policy.clip)
    for head in {step.head for step in steps if step.head is not None}:
        thumb = np.full((1, media.thumb_side, media.thumb_side, 3), 127, np.uint8)
        item = Item(f"head-{uuid.uuid4().hex}", "photo", (), thumb, (0.0,), time.monotonic() + _TIMEOUT_S, head)
        try:
            await clients["backbone"].predict([item])
        except StageFailed as error:
            raise PolicyRefused(f"the head {head} cannot be used: {error}") from None
