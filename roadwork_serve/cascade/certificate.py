"""The risk certificate of a policy: the error bound that was proven for its exit bands, and the evidence for it."""

from pydantic import Field

from roadwork_serve.schema import MediaKind
from roadwork_serve.validation import ConfigModel, Count, Probability


class RiskBound(ConfigModel):
    """The test of one media type."""

    media: MediaKind = Field(description="media type that was tested")
    n: Count = Field(description="independent items in the test")
    errors: Count = Field(description="of these, items with a wrong label because of an early exit")
    p_value: Probability = Field(
        description="probability of so few early-exit errors if their true rate were above the risk limit"
    )
    confidence: Probability = Field(description="confidence level of this bound on its own")


class RiskCertificate(ConfigModel):
    """A bound on early-exit errors: wrong labels of items that all stages together would have labelled correctly."""

    risk_limit: Probability = Field(description="upper bound on the share of items with an early-exit error")
    confidence: Probability = Field(description="probability that all bounds hold, for traffic like the tested rows")
    method: str = Field(max_length=500, description="statistical test")
    data_sha256: str = Field(max_length=500, description="SHA-256 of the tested rows")
    human_labeled: Count = Field(
        description="tested items with a human label; the full cascade's label is taken as the truth for the others"
    )
    date: str = Field(max_length=500, description="date of the test, ISO 8601")
    bounds: tuple[RiskBound, ...] = Field(description="one bound for each media type that passed the test")
