"""Observers of verdicts: metrics, statistics, demand, tracing, the shadow log and the journal's outbox."""

from collections.abc import Sequence
from dataclasses import dataclass

from roadwork_serve.api.request_context import RequestContext
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.router import RoutedVerdict
from roadwork_serve.profiles.flops import StageCost
from roadwork_serve.schema import StageReport, Verdict


@dataclass(frozen=True, slots=True)
class VerdictEvent:
    """A verdict, just before it is returned."""

    #: The verdict and the features computed on the way.
    routed: RoutedVerdict
    #: The encoded file.
    data: bytes
    #: Origin of the request.
    context: RequestContext
    #: The active policy.
    policy: Policy
    #: Number of the active policy's revision.
    policy_revision: int
    #: Cost of each of the verdict's stage reports, in their order.
    costs: tuple[StageCost, ...]

    @property
    def verdict(self) -> Verdict:
        """The verdict itself."""
        return self.routed.verdict


class VerdictObserver:
    """The base of all observers. Each method does nothing unless it is overridden."""

    def on_arrival(self) -> None:
        """Handle the arrival of a file."""

    async def on_verdict(self, event: VerdictEvent) -> None:
        """Handle a verdict. It is returned to the client after all observers have."""

    def on_rejected(self, slug: str) -> None:
        """Handle a file or request without a verdict. `slug` names the problem."""

    def on_shadow(self, verdict: Verdict, shadow: Verdict) -> None:
        """Handle the verdict of the shadow policy on an item that has got its verdict already."""

    def on_audit(self, verdict: Verdict, reports: tuple[StageReport, ...]) -> None:
        """Handle the reports of a full-cascade audit: of the stages that the verdict had not needed."""


class ObserverList(VerdictObserver):
    """Several observers as one, called in order."""

    def __init__(self, observers: Sequence[VerdictObserver]) -> None:
        self._observers = tuple(observers)

    def on_arrival(self) -> None:
        """Call each observer."""
        for observer in self._observers:
            observer.on_arrival()

    async def on_verdict(self, event: VerdictEvent) -> None:
        """Await each observer."""
        for observer in self._observers:
            await observer.on_verdict(event)

    def on_rejected(self, slug: str) -> None:
        """Call each observer."""
        for observer in self._observers:
            observer.on_rejected(slug)

    def on_shadow(self, verdict: Verdict, shadow: Verdict) -> None:
        """Call each observer."""
        for observer in self._observers:
            observer.on_shadow(verdict, shadow)

    def on_audit(self, verdict: Verdict, reports: tuple[StageReport, ...]) -> None:
        """Call each observer."""
        for observer in self._observers:
            observer.on_audit(verdict, reports)
