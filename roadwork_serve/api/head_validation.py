"""Heads that a policy names, tried before it comes into force."""

import time
import uuid
from collections.abc import Mapping

import numpy as np

from roadwork_serve.cascade.prediction import Item, StageClient
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import PolicyRefused, StageFailed
from roadwork_serve.profiles.profile import MediaLimits

_WITHIN_S = 20.0


async def validate_heads(rules: Rollout, clients: Mapping[str, StageClient], media: MediaLimits) -> None:
    """Let stage 1 judge a made-up picture with each head that the rules name. Raises PolicyRefused where it cannot."""
    steps = (step for policy in rules.policies for step in policy.photo + policy.clip)
    for head in {step.head for step in steps if step.head is not None}:
        thumb = np.full((1, media.thumb_side, media.thumb_side, 3), 127, np.uint8)
        item = Item(f"trial-{uuid.uuid4().hex}", "photo", (), thumb, (0.0,), time.monotonic() + _WITHIN_S, head)
        try:
            await clients["backbone"].judge([item])
        except StageFailed as error:
            raise PolicyRefused(f"the head {head} cannot be used: {error}") from None
