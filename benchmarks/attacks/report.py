"""The figures of the attacks, beside those from before the protections."""

from dataclasses import dataclass

from benchmarks.attacks.requests import Served

SOURCE = (
    "measured earlier on another day, at commit 9dc3935, on a busy machine of the same kind. The eight files were then "
    "PNGs of 1 x 49,999,999 pixels, which are now refused from their header; `now` is with the heaviest accepted files."
)
SLOWER = 1.5  # allowed median beside the heavy files, relative to that alone


@dataclass(frozen=True, slots=True)
class Figures:
    """The measurements of all attacks."""

    #: Ordinary photos without an attack, beside the heavy files, the slow bodies and the head.
    alone: Served
    beside_heavy: Served
    beside_slow: Served
    beside_head: Served
    #: The heavy files themselves.
    heavy: Served
    #: Most memory of all processes without an attack and beside the heavy files.
    calm_mib: float
    heavy_mib: float
    #: Statuses of the policies whose head is a FIFO.
    head_statuses: list[int]

    @property
    def slower(self) -> float:
        """Median of the photos beside the heavy files, relative to that alone."""
        return self.beside_heavy.quantile_s(0.5) / self.alone.quantile_s(0.5)

    @property
    def passed(self) -> bool:
        """True if all ordinary photos were answered, in time beside the heavy files, and no policy was accepted."""
        series = (self.alone, self.beside_heavy, self.beside_slow, self.beside_head)
        all_answered = all(each.answered == len(each.statuses) for each in series)
        return all_answered and self.slower <= SLOWER and all(400 <= status < 500 for status in self.head_statuses)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure before and after the protections, as text; `before` is empty if it was not measured."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack and its figures."""

    name: str
    figures: list[Figure]


def attacks(found: Figures) -> list[Attack]:
    """Return the figures of all attacks."""
    alone, heavy, slow, head = found.alone, found.beside_heavy, found.beside_slow, found.beside_head
    return [
        Attack(
            "eight heavy files in 40 s",
            [
                Figure("photos answered, of 2 per second", "40 of 89", _answered(heavy)),
                Figure(
                    "median alone, and beside them",
                    "0.135 s, 4.3 s",
                    f"{alone.quantile_s(0.5):.3f} s, {heavy.quantile_s(0.5):.3f} s ({found.slower:.2f} times)",
                ),
                Figure("p95 of both", "", f"{alone.quantile_s(0.95):.2f} s, {heavy.quantile_s(0.95):.2f} s"),
                Figure(
                    "memory of all processes alone, and beside them",
                    "8.8 GB, 16.4 GB",
                    f"{_gb(found.calm_mib):.1f} GB, {_gb(found.heavy_mib):.1f} GB",
                ),
            ],
        ),
        Attack(
            "256 slow bodies for 36 s, with the key of the photos",
            [
                Figure("photos answered, of 2 per second", "none for 30 s", _answered(slow)),
                Figure("median, p95", "", f"{slow.quantile_s(0.5):.3f} s, {slow.quantile_s(0.95):.2f} s"),
            ],
        ),
        Attack(
            "a policy whose head is a FIFO",
            [
                Figure("status of the policy", "", ", ".join(map(str, found.head_statuses))),
                Figure("photos answered, of 2 per second", "none for 102 s", _answered(head)),
                Figure("p95", "", f"{head.quantile_s(0.95):.2f} s"),
            ],
        ),
    ]  # fmt: skip


def _answered(served: Served) -> str:
    return f"{served.answered} of {len(served.statuses)}"


def _gb(mib: float) -> float:
    return mib * 2**20 / 1e9
