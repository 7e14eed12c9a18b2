"""What is promised of a policy's exit bands, and on what grounds."""

from dataclasses import asdict, dataclass
from typing import Any

from roadwork_serve.cascade.parsing import entries_of, items_of, number
from roadwork_serve.errors import ConfigError
from roadwork_serve.schema import MediaKind


@dataclass(frozen=True, slots=True)
class RiskBound:
    """For one kind of media. n: independent items that were tested; losses: of these wrong for having left early.

    p_value: the chance of so few losses were the true share of them above the bound. confidence: of this promise alone.
    """

    media: MediaKind
    n: int
    losses: int
    p_value: float
    confidence: float


@dataclass(frozen=True, slots=True)
class RiskCertificate:
    """With `confidence`, of the traffic that the data was drawn from no more than a share of `max_loss` is labelled
    wrong by an early exit where all stages together would have been right.

    data: SHA-256 of the rows. by_people: how many of the items tested were labelled by people; for the others what all
    stages together say counts as right. date: of the test, ISO 8601.
    """

    risk_limit: float
    confidence: float
    method: str
    data: str
    human_labeled: int
    date: str
    promises: tuple[RiskBound, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Plain data that `from_mapping` reads back into an equal certificate."""
        return asdict(self) | {"promises": [asdict(promise) for promise in self.promises]}

    @classmethod
    def from_mapping(cls, value: object) -> "RiskCertificate":
        """From what YAML or JSON holds. Raises ConfigError naming the entry to mend."""
        names = {"risk_limit", "confidence", "method", "data", "human_labeled", "date", "promises"}
        entries = entries_of(value, "certificate", names, set())
        promises = items_of(entries["promises"], "certificate.promises", "one promise a kind of media")
        return cls(
            number(entries["risk_limit"], "certificate.max_loss", 0, 1),
            number(entries["confidence"], "certificate.confidence", 0, 1),
            _text(entries["method"], "certificate.method"),
            _text(entries["data"], "certificate.data"),
            int(number(entries["human_labeled"], "certificate.by_people", 0)),
            _text(entries["date"], "certificate.date"),
            tuple(_promise(each, f"certificate.promises[{index}]") for index, each in enumerate(promises)),
        )


def _promise(value: object, where: str) -> RiskBound:
    entries = entries_of(value, where, {"media", "n", "losses", "p_value", "confidence"}, set())
    media = entries["media"]
    if media not in ("photo", "clip"):
        raise ConfigError(f"{where}.media: {media!r} is neither photo nor clip")
    return RiskBound(
        media,
        int(number(entries["n"], f"{where}.n", 0)),
        int(number(entries["losses"], f"{where}.losses", 0)),
        number(entries["p_value"], f"{where}.p_value", 0, 1),
        number(entries["confidence"], f"{where}.confidence", 0, 1),
    )


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > 500:
        raise ConfigError(f"{where}: {value!r:.80} should be a text of at most 500 characters")
    return value
