"""Vision language models on a server with the OpenAI API: vLLM, SGLang, Modular MAX.

Experimental with servers on a GPU, not yet run on hardware.
"""

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

from roadwork_serve.engines.chat import ANSWER, END_OF_THINKING
from roadwork_serve.engines.vlm import NO, YES, Prompt, VlmAnswer, from_logprobs, gather_answers
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.profiles.engine_spec import EngineSpec

TOP = 20  # largest number of log-probabilities per token in the API
CHOICE_LOGIT = math.log(0.9 / 0.1)  # logit of a chosen answer without log-probabilities
JPEG_QUALITY = 95
CHOICE: Any = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "schema": {"type": "string", "enum": [YES[0], NO[0]]}, "strict": True},
}
REJECTED = (BadRequestError, UnprocessableEntityError)

Messages = list[Any]


@dataclass(frozen=True)
class _Choice:
    """The first choice of a completion."""

    #: Message of the openai library.
    message: Any
    #: Log-probabilities of the openai library.
    logprobs: Any
    #: Number of generated tokens.
    tokens: int


class OpenAiEngine:
    """Computes P(YES) from the log-probabilities of the first token.

    If the server returns none, it uses a constrained choice and sets `from_choice`. A clip is sent as frames with a
    timestamp before each, since the servers have no common video format.
    """

    def __init__(self, engine: EngineSpec, timeout_s: float, transport: Any = None) -> None:
        """Create the client.

        Args:
            engine: Settings of the profile.
            timeout_s: Time limit of one request in seconds.
            transport: Transport of httpx, for tests.

        Raises:
            ConfigError: The environment variable with the API key is not set.
        """
        self.model = engine.model
        self.url = engine.server.url
        self.max_pixels = engine.language.max_pixels
        self.sampling = engine.language.sampling
        self.timeout_s = timeout_s
        self.gives_logprobs = True
        self.continues_text = True  # the server can continue a message of the assistant
        variable = engine.server.api_key_env
        if variable is not None and not os.environ.get(variable):
            raise ConfigError(f"the environment has no {variable}, which server.api_key_env names; set it to the key")
        key = os.environ[variable] if variable is not None else "none"
        self._client = AsyncOpenAI(
            base_url=self.url, api_key=key, timeout=timeout_s, max_retries=1,
            http_client=None if transport is None else DefaultAsyncHttpxClient(transport=transport),
        )  # fmt: skip

    async def ask(self, prompts: Sequence[Prompt], reasoning_tokens: int = 0) -> list[VlmAnswer]:
        """See `LanguageEngine`.

        Raises:
            ModelError: The server does not answer or returns an error.
        """
        return await gather_answers(self._ask(prompt, reasoning_tokens) for prompt in prompts)

    async def check(self) -> None:
        """See `LanguageEngine`. Nothing to check: a restart of this process would not help the server."""

    async def sleep(self) -> None:
        """See `LanguageEngine`. Nothing to release here."""

    async def wake(self) -> None:
        """See `LanguageEngine`."""

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _ask(self, prompt: Prompt, reasoning_tokens: int) -> VlmAnswer:
        began = time.perf_counter()
        messages = await asyncio.to_thread(self._messages, prompt)
        ready = time.perf_counter()
        try:
            answer = await (self._think(messages, reasoning_tokens) if reasoning_tokens else self._answer(messages))
        except APITimeoutError as error:
            raise ModelError(
                f"{self.url} did not answer within {self.timeout_s:g} s: give the stage more timeout_s or fewer slots"
            ) from error
        except APIConnectionError as error:
            raise ModelError(f"no server answers at {self.url}: start it, or correct server.url") from error
        except APIStatusError as error:
            raise ModelError(f"{self.url} rejects the request for {self.model}: {error.message}") from error
        return replace(answer, preprocess_ms=1000 * (ready - began), compute_ms=1000 * (time.perf_counter() - ready))

    async def _answer(self, messages: Messages, **body: Any) -> VlmAnswer:
        if not self.gives_logprobs:
            return await self._from_choice(messages, **body)
        try:
            return await self._from_logprobs(messages, **body)
        except REJECTED:  # if it is the log-probabilities, a choice still works
            answer = await self._from_choice(messages, **body)
            self.gives_logprobs = False
            return answer

    async def _from_logprobs(self, messages: Messages, **body: Any) -> VlmAnswer:
        choice = await self._complete(
            messages, max_tokens=1, temperature=0, logprobs=True, top_logprobs=TOP, extra_body=body
        )
        if choice.logprobs is None:
            answer = await self._from_choice(messages, **body)
            self.gives_logprobs = False
            return answer
        content = choice.logprobs.content
        top = [(each.token.strip(), each.logprob) for each in content[0].top_logprobs] if content else []
        yes, no = ([logprob for token, logprob in top if token in words] for words in (YES, NO))
        if not yes and not no:
            return await self._from_choice(messages, **body)
        bound = [min(logprob for _, logprob in top)]  # a token outside the top is at most as likely as the last of them
        return from_logprobs(yes or bound, no or bound)

    async def _from_choice(self, messages: Messages, **body: Any) -> VlmAnswer:
        choice = await self._complete(messages, max_tokens=8, temperature=0, response_format=CHOICE, extra_body=body)
        text = (choice.message.content or "").strip().strip('"')
        if text not in (YES[0], NO[0]):
            raise ModelError(f"{self.url} answers {text[:40]!r} instead of YES or NO: use another model or server")
        return VlmAnswer(CHOICE_LOGIT if text == YES[0] else -CHOICE_LOGIT, other_token_mass=0.0, from_choice=True)

    async def _think(self, messages: Messages, most: int) -> VlmAnswer:
        """Generate the reasoning, then continue it to the answer.

        A server that cannot continue a message gets the question in a new message.
        """
        sampling = self.sampling.model_dump(exclude_defaults=True)
        top_k = {"top_k": sampling.pop("top_k")} if "top_k" in sampling else {}  # not in the API of OpenAI
        choice = await self._complete(
            messages, max_tokens=most, extra_body=top_k, **{"temperature": 0, "seed": self.sampling.seed} | sampling
        )
        extra = choice.message.model_extra or {}
        parsed = extra.get("reasoning_content") or extra.get("reasoning")
        reasoning = (parsed or (choice.message.content or "").split(END_OF_THINKING)[0]).strip()
        continued = {"role": "assistant", "content": reasoning + ANSWER}
        dialogue = [{"role": "assistant", "content": reasoning}, {"role": "user", "content": "So is it YES or NO?"}]
        if not self.continues_text:
            answer = await self._answer([*messages, *dialogue])
        else:
            try:
                answer = await self._answer(
                    [*messages, continued], continue_final_message=True, add_generation_prompt=False
                )
            except REJECTED:
                answer = await self._answer([*messages, *dialogue])
                self.continues_text = False
        return replace(answer, reasoning=reasoning, tokens=choice.tokens + answer.tokens)

    async def _complete(self, messages: Messages, **settings: Any) -> _Choice:
        """Return the first choice of a completion.

        Raises:
            ModelError: The response is not a completion.
        """
        reply = await self._client.chat.completions.create(model=self.model, messages=messages, **settings)
        try:
            first = reply.choices[0]
            tokens = reply.usage.completion_tokens if reply.usage else 0
            return _Choice(first.message, first.logprobs, tokens)
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
