"""Asks a server that speaks the OpenAI API: vLLM, SGLang, Modular MAX. The model runs there, not here."""

import asyncio
import base64
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    BadRequestError,
    DefaultAsyncHttpxClient,
    UnprocessableEntityError,
)
from PIL import Image

from roadwork_serve.engines.chat import ANSWER, END_OF_THOUGHT
from roadwork_serve.engines.vlm import NO, YES, Prompt, VlmAnswer, from_logprobs, gather_answers
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.profiles.profile import EngineSpec

TOP = 20  # log-probabilities a token that the API gives at most
COARSE_LOGIT = math.log(0.9 / 0.1)  # what a chosen answer counts when the server gives no log-probabilities
JPEG_QUALITY = 95
CHOICE: Any = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "schema": {"type": "string", "enum": [YES[0], NO[0]]}, "strict": True},
}
REFUSED = (BadRequestError, UnprocessableEntityError)

Messages = list[Any]


@dataclass(frozen=True)
class _Choice:
    """message, logprobs: as the openai library has them. written: tokens."""

    message: Any
    logprobs: Any
    written: int


class OpenAiEngine:
    """P(YES) from the log-probabilities of the first token; from a constrained choice, and marked coarse, without.

    A clip is sent as its frames, each after its time: no server-side video format is common to all. timeout_s: of one
    request. Raises ConfigError when the key is wanted and not there.
    """

    def __init__(self, engine: EngineSpec, timeout_s: float, transport: Any = None) -> None:
        self.model = engine.model
        self.url = engine.server.url
        self.max_pixels = engine.language.max_pixels
        self.timeout_s = timeout_s
        self.gives_logprobs = True
        self.goes_on = True  # with a text that we began
        variable = engine.server.api_key_env
        if variable is not None and not os.environ.get(variable):
            raise ConfigError(f"the environment has no {variable}, which server.api_key_env names; set it to the key")
        key = os.environ[variable] if variable is not None else "none"
        self._client = AsyncOpenAI(
            base_url=self.url, api_key=key, timeout=timeout_s, max_retries=1,
            http_client=None if transport is None else DefaultAsyncHttpxClient(transport=transport),
        )  # fmt: skip

    async def ask(self, prompts: Sequence[Prompt], thought_tokens: int = 0) -> list[VlmAnswer]:
        """See `LanguageEngine`. Raises ModelError when the server does not answer or refuses."""
        return await gather_answers(self._ask(prompt, thought_tokens) for prompt in prompts)

    async def check(self) -> None:
        """See `LanguageEngine`: starting this process anew would not bring a server back."""

    async def sleep(self) -> None:
        """See `LanguageEngine`: nothing here holds memory."""

    async def wake(self) -> None:
        """See `LanguageEngine`."""

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _ask(self, prompt: Prompt, thought_tokens: int) -> VlmAnswer:
        began = time.perf_counter()
        messages = await asyncio.to_thread(self._messages, prompt)
        ready = time.perf_counter()
        try:
            answer = await (self._think(messages, thought_tokens) if thought_tokens else self._answer(messages))
        except APITimeoutError as error:
            raise ModelError(
                f"{self.url} did not answer within {self.timeout_s:g} s: give the stage more timeout_s or fewer slots"
            ) from error
        except APIConnectionError as error:
            raise ModelError(f"no server answers at {self.url}: start it, or mend server.url") from error
        except APIStatusError as error:
            raise ModelError(f"{self.url} refuses to answer with {self.model}: {error.message}") from error
        return replace(answer, preprocess_ms=1000 * (ready - began), compute_ms=1000 * (time.perf_counter() - ready))

    async def _answer(self, messages: Messages, **body: Any) -> VlmAnswer:
        if not self.gives_logprobs:
            return await self._chosen(messages, **body)
        try:
            return await self._likely(messages, **body)
        except REFUSED:  # the log-probabilities or the question: the choice will tell
            answer = await self._chosen(messages, **body)
            self.gives_logprobs = False
            return answer

    async def _likely(self, messages: Messages, **body: Any) -> VlmAnswer:
        choice = await self._complete(
            messages, max_tokens=1, temperature=0, logprobs=True, top_logprobs=TOP, extra_body=body
        )
        if choice.logprobs is None:
            answer = await self._chosen(messages, **body)
            self.gives_logprobs = False
            return answer
        told = choice.logprobs.content
        top = [(each.token.strip(), each.logprob) for each in told[0].top_logprobs] if told else []
        yes, no = ([logprob for token, logprob in top if token in words] for words in (YES, NO))
        if not yes and not no:
            return await self._chosen(messages, **body)
        least = [min(logprob for _, logprob in top)]  # what is not among the likeliest is at most as likely as the last
        return from_logprobs(yes or least, no or least)

    async def _chosen(self, messages: Messages, **body: Any) -> VlmAnswer:
        choice = await self._complete(messages, max_tokens=8, temperature=0, response_format=CHOICE, extra_body=body)
        said = (choice.message.content or "").strip().strip('"')
        if said not in (YES[0], NO[0]):
            raise ModelError(f"{self.url} answers {said[:40]!r} where YES or NO is asked: name another model or server")
        return VlmAnswer(COARSE_LOGIT if said == YES[0] else -COARSE_LOGIT, other_token_mass=0.0, from_choice=True)

    async def _think(self, messages: Messages, most: int) -> VlmAnswer:
        """Let it write, then lead it to its answer. A server that cannot go on with a text is asked in a new turn."""
        choice = await self._complete(messages, max_tokens=most, temperature=0)
        told = choice.message.model_extra or {}
        parsed = told.get("reasoning_content") or told.get("reasoning")
        thought = (parsed or (choice.message.content or "").split(END_OF_THOUGHT)[0]).strip()
        leading = {"role": "assistant", "content": thought + ANSWER}
        turns = [{"role": "assistant", "content": thought}, {"role": "user", "content": "So is it YES or NO?"}]
        if not self.goes_on:
            answer = await self._answer([*messages, *turns])
        else:
            try:
                answer = await self._answer(
                    [*messages, leading], continue_final_message=True, add_generation_prompt=False
                )
            except REFUSED:
                answer = await self._answer([*messages, *turns])
                self.goes_on = False
        return replace(answer, thought=thought, tokens=choice.written + answer.tokens)

    async def _complete(self, messages: Messages, **settings: Any) -> _Choice:
        """The server's first choice. Raises ModelError when what it says is no completion, and openai's own errors."""
        reply = await self._client.chat.completions.create(model=self.model, messages=messages, **settings)
        try:
            first = reply.choices[0]
            written = reply.usage.completion_tokens if reply.usage else 0
            return _Choice(first.message, first.logprobs, written)
        except (AttributeError, IndexError, TypeError) as error:
            raise ModelError(f"{self.url} does not speak the OpenAI API: does server.url end with /v1?") from error

    def _messages(self, prompt: Prompt) -> Messages:
        parts: list[dict[str, Any]] = []
        for index, image in enumerate(prompt.images):
            if prompt.timestamps_s:
                parts.append({"type": "text", "text": f"{prompt.timestamps_s[index]:.1f} s"})
            parts.append({"type": "image_url", "image_url": {"url": self._data_url(image)}})
        return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt.question}]}]

    def _data_url(self, image: Image.Image) -> str:
        if self.max_pixels is not None and image.width * image.height > self.max_pixels:
            scale = math.sqrt(self.max_pixels / (image.width * image.height))
            image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
        encoded = BytesIO()
        image.save(encoded, "JPEG", quality=JPEG_QUALITY)
        return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()
