"""The journal as the ingress asks it: what was answered, and what people say of it."""

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import Any

from ray.serve.handle import DeploymentHandle

from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import JournalDown, NotFound, RoadworkError
from roadwork_serve.schema import HumanLabel, JournalEntry, JournalPage, PolicyPreview

_LOG = logging.getLogger("ray.serve.roadwork.recall")
_WITHIN_S = 15.0


class JournalClient:
    """Asks the journal's deployment, None where there is none.

    in_force: the rules that answer now. checked: makes rules of plain data, and raises PolicyRefused.
    Every method raises JournalDown, and NotFound for what the journal does not hold.
    """

    def __init__(
        self, journal: DeploymentHandle | None, in_force: Callable[[], Rollout], checked: Callable[[object], Rollout]
    ) -> None:
        self._journal = journal
        self._in_force = in_force
        self._checked = checked
        self._context = contextvars.copy_context()  # calls belong to no request, see RayStageClient

    async def recent(self, limit: int) -> JournalPage:
        """The latest answers, the newest first."""
        return await self._ask("recent", limit)

    async def hard(self, limit: int) -> JournalPage:
        """Of the latest that nobody has labelled those that teach most, by the threshold in force."""
        return await self._ask("hard", limit, self._in_force().policy.decision_threshold)

    async def media(self, name: str) -> bytes:
        """The encoded file of an answer, by its id."""
        return await self._ask("media", name)

    async def say(self, name: str, said: HumanLabel, by: str) -> JournalEntry:
        """Write down what a person says of an answer, by its id."""
        return await self._ask("say", name, said, by)

    async def preview(self, rules: object, last: int) -> PolicyPreview:
        """What a policy, or that of rules, would have made of the latest answers. Raises PolicyRefused."""
        then = self._checked(rules).policy
        return await self._ask("preview", self._in_force().policy.to_mapping(), then.to_mapping(), last)

    async def _ask(self, question: str, *args: object) -> Any:
        if self._journal is None:
            raise NotFound("this server keeps no journal; set journal.enabled in the profile")
        response = self._context.copy().run(self._journal.ask.remote, question, *args)
        try:
            async with asyncio.timeout(_WITHIN_S):
                answer = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:  # of Serve: the replica is gone, or full, or takes too long
            response.cancel()
            _LOG.warning("The journal does not answer: %s", error)
            raise JournalDown("the journal does not answer at the moment; come back in a few seconds") from None
        if isinstance(answer, RoadworkError):
            raise answer
        return answer
