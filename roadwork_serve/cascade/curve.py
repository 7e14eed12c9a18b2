"""Calibration curves: from a stage's raw log-odds to calibrated ones.

No curve decreases. `Linear` is temperature scaling (Guo et al., 2017) and Platt scaling (Platt, 1999); `Beta` is beta
calibration (Kull et al., 2017): its logit is a ln p - b ln(1 - p) + c; `Isotonic` is isotonic regression.
"""

import math
from bisect import bisect_right
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from roadwork_serve.validation import ConfigModel, rule_error

FAR = 1e6  # infinite logits are clipped to this
MAX_KNOTS = 256

Weight = Annotated[float, Field(strict=True, ge=0, le=FAR, allow_inf_nan=False)]
Logit = Annotated[float, Field(strict=True, ge=-FAR, le=FAR, allow_inf_nan=False)]


class Linear(ConfigModel):
    """A straight line: slope x logit + offset."""

    kind: Literal["linear"] = Field(default="linear", description="kind of the curve")
    slope: Weight = Field(description="factor on the raw log-odds, 0 or more")
    offset: Logit = Field(default=0.0, description="log-odds to add")

    def __call__(self, logit: float) -> float:
        """Return the calibrated log-odds."""
        return self.slope * logit + self.offset


class Beta(ConfigModel):
    """Beta calibration: a ln p - b ln(1 - p) + c for the probability p of the logit."""

    kind: Literal["beta"] = Field(default="beta", description="kind of the curve")
    a: Weight = Field(description="factor on ln p, 0 or more")
    b: Weight = Field(description="factor on -ln(1 - p), 0 or more")
    c: Logit = Field(description="log-odds to add")

    def __call__(self, logit: float) -> float:
        """Return the calibrated log-odds."""
        return -self.a * _softplus(-logit) + self.b * _softplus(logit) + self.c


class Isotonic(ConfigModel):
    """A piecewise linear curve through knots, constant outside of them."""

    kind: Literal["isotonic"] = Field(default="isotonic", description="kind of the curve")
    x: tuple[Logit, ...] = Field(description=f"raw log-odds of the knots, strictly increasing, 1 to {MAX_KNOTS}")
    y: tuple[Logit, ...] = Field(description="calibrated log-odds of the knots, never decreasing, as many as in x")

    @model_validator(mode="after")
    def _check_knots(self) -> Self:
        if not 1 <= len(self.x) <= MAX_KNOTS or len(self.x) != len(self.y):
            raise rule_error(
                f"x has {len(self.x)} and y {len(self.y)} knots; write as many in y as in x, 1 to {MAX_KNOTS}"
            )
        if any(left >= right for left, right in pairwise(self.x)):
            raise rule_error("knots must increase; sort them and remove duplicates", "x")
        if any(left > right for left, right in pairwise(self.y)):
            raise rule_error("knots must not decrease; sort them", "y")
        return self

    def __call__(self, logit: float) -> float:
        """Return the calibrated log-odds."""
        if logit <= self.x[0]:
            return self.y[0]
        if logit >= self.x[-1]:
            return self.y[-1]
        right = bisect_right(self.x, logit)
        x0, x1, y0, y1 = self.x[right - 1], self.x[right], self.y[right - 1], self.y[right]
        return y0 + (y1 - y0) * (logit - x0) / (x1 - x0)


Curve = Annotated[Linear | Beta | Isotonic, Field(discriminator="kind")]


def _softplus(x: float) -> float:
    """Return ln(1 + e^x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
