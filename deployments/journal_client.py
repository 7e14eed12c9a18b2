"""The journal behind its Ray Serve handle, as the ingress queries it."""

import asyncio
import contextvars
import logging
from typing import Any

from ray.serve.handle import DeploymentHandle

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import JournalDown, NotFound, RoadworkError
from roadwork_serve.journal.filter import Filter
from roadwork_serve.schema import HumanLabel, JournalEntry, JournalPage, PolicyPreview

_LOG = logging.getLogger("ray.serve.roadwork.journal_client")
_TIMEOUT_S = 15.0


class JournalClient:
    """Implements `api.journal_queries.JournalQueries` over the journal's deployment.

    Args:
        journal: The deployment; without one every query raises NotFound.
    """

    def __init__(self, journal: DeploymentHandle | None) -> None:
        self._handle = journal
        self._context = contextvars.copy_context()  # calls belong to no request, see RayStageClient

    async def recent(self, limit: int, where: Filter, cursor: str | None) -> JournalPage:
        """See `JournalQueries`."""
        return await self._call(self._journal.recent, limit, where, cursor)

    async def informative(self, limit: int, where: Filter, decision_threshold: float) -> JournalPage:
        """See `JournalQueries`."""
        return await self._call(self._journal.informative, limit, where, decision_threshold)

    async def media(self, answer_id: str) -> bytes:
        """See `JournalQueries`."""
        return await self._call(self._journal.media, answer_id)

    async def label(self, answer_id: str, label: HumanLabel, author: str) -> JournalEntry:
        """See `JournalQueries`."""
        return await self._call(self._journal.label, answer_id, label, author)

    async def withdraw_label(self, answer_id: str, author: str) -> JournalEntry:
        """See `JournalQueries`."""
        return await self._call(self._journal.withdraw_label, answer_id, author)

    async def preview(self, current: Policy, proposed: Policy, last: int) -> PolicyPreview:
        """See `JournalQueries`."""
        return await self._call(self._journal.preview, current, proposed, last)

    @property
    def _journal(self) -> DeploymentHandle:
        if self._handle is None:
            raise NotFound("this server has no journal; set journal.enabled in the profile")
        return self._handle

    async def _call(self, method: Any, *args: object) -> Any:
        """Call a method of `JournalReplica`; raise the error that it returns as a value."""
        response = self._context.copy().run(method.remote, *args)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                result = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:  # of Serve: the replica is gone, or overloaded, or too slow
            response.cancel()
            _LOG.warning("The journal does not answer: %s", error)
            raise JournalDown("the journal does not answer at the moment; come back in a few seconds") from None
        if isinstance(result, RoadworkError):
            raise result
        return result
