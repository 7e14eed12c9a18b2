"""The engine for OpenAI-compatible servers, against fake servers; tests/vllm uses a real one."""

import base64
import json
import math
from collections.abc import Callable
from io import BytesIO
from typing import Any

import httpx2
import pytest
from PIL import Image

from roadwork_serve.engines.openai import CHOICE_LOGIT, OpenAiEngine
from roadwork_serve.engines.vlm import Prompt
from roadwork_serve.errors import ConfigError, ModelError
from roadwork_serve.profiles.engine_spec import EngineSpec

PHOTO = Prompt("Is there?", (Image.new("RGB", (640, 480), "orange"),))
TOP = [("YES", 0.5), (" yes", 0.1), ("No", 0.2), ("Maybe", 0.1), ("I", 0.05)]


class Server:
    """Responds with the result of `reply`, and records the requests."""

    def __init__(self, reply: Callable[[dict[str, Any]], dict[str, Any] | int]) -> None:
        self.reply = reply
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        self.asked.append(body)
        self.keys.append(request.headers["authorization"])
        answer = self.reply(body)
        if isinstance(answer, int):
            return httpx2.Response(answer, json={"error": {"message": "not with me"}})
        return httpx2.Response(200, json=answer)


def completion(text: str, top: list[tuple[str, float]] | None = None, **message: Any) -> dict[str, Any]:
    content = [
        {"token": text, "logprob": 0.0, "bytes": None,
         "top_logprobs": [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in top or []]}
    ]  # fmt: skip
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m",
        "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message},
                     "logprobs": {"content": content} if top else None}],
    }  # fmt: skip


def engine(server: Server, **changes: Any) -> OpenAiEngine:
    spec = EngineSpec.model_validate(
        {"backend": "openai", "model": "m", "server": {"url": "http://127.0.0.1:1/v1"}} | changes
    )
    return OpenAiEngine(spec, timeout_s=5, transport=httpx2.MockTransport(server))


async def test_p_yes_is_summed_over_the_spellings() -> None:
    server = Server(lambda body: completion("YES", TOP))
    (answer,) = await engine(server).ask([PHOTO])
    assert answer.logit == pytest.approx(math.log(0.6 / 0.2))
    assert answer.other_token_mass == pytest.approx(0.2)
    assert not answer.from_choice and answer.compute_ms > 0
    assert (server.asked[0]["max_tokens"], server.asked[0]["top_logprobs"]) == (1, 20)
    image, question = server.asked[0]["messages"][0]["content"]
    assert question == {"type": "text", "text": "Is there?"}  # the picture first, so that the server can reuse it
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,")


async def test_a_token_outside_the_top_logprobs_gets_the_smallest_of_them() -> None:
    server = Server(lambda body: completion("YES", [("YES", 0.9), ("A", 0.02)]))
    (answer,) = await engine(server).ask([PHOTO])
    assert answer.logit == pytest.approx(math.log(0.9 / 0.02))


@pytest.mark.parametrize(
    ("reply", "asked"),
    [
        (lambda body: 400 if "logprobs" in body else completion('"YES"'), 3),
        (lambda body: completion("YES" if "response_format" in body else "Well"), 3),
        (lambda body: completion("YES", None if "response_format" in body else [("Well", 0.9), ("I", 0.1)]), 4),
    ],
    ids=["refuses", "leaves out", "others likelier"],
)
async def test_without_log_probabilities_the_choice_is_used_and_marked(reply: Any, asked: int) -> None:
    server = Server(reply)
    asking = engine(server)
    for _ in range(2):
        (answer,) = await asking.ask([PHOTO])
        assert answer.from_choice and answer.logit == pytest.approx(CHOICE_LOGIT)
    assert len(server.asked) == asked  # it asks for log-probabilities again only of a server that gives them
    assert server.asked[-1]["response_format"]["json_schema"]["schema"]["enum"] == ["YES", "NO"]


async def test_an_answer_other_than_yes_or_no_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"answers 'perhaps' instead of YES or NO"):
        await engine(Server(lambda body: completion("perhaps"))).ask([PHOTO])


async def test_reasoning_is_sampled_as_the_profile_says_and_the_answer_is_not() -> None:
    server = Server(lambda body: completion("YES", TOP) if "logprobs" in body else completion("cones"))
    sampling = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "seed": 3}
    await engine(server, language={"sampling": sampling}).ask([PHOTO], reasoning_tokens=64)
    assert {name: server.asked[0][name] for name in sampling} == sampling
    assert server.asked[1]["temperature"] == 0
    await engine(server).ask([PHOTO], reasoning_tokens=64)
    assert server.asked[2]["temperature"] == 0 and "top_k" not in server.asked[2]


@pytest.mark.parametrize(
    "thought", [{"text": "", "reasoning_content": "cones"}, {"text": "cones</think>\n\nYES"}, {"text": "cones"}]
)
async def test_reasoning_is_returned_and_followed_by_an_answer(thought: dict[str, str]) -> None:
    server = Server(lambda body: completion("YES", TOP) if "logprobs" in body else completion(**thought))
    (answer,) = await engine(server).ask([PHOTO], reasoning_tokens=64)
    assert (answer.reasoning, answer.tokens) == ("cones", 6)
    assert server.asked[0]["max_tokens"] == 64
    assert server.asked[1]["messages"][-1] == {"role": "assistant", "content": "cones\n\nAnswer:"}
    assert server.asked[1]["continue_final_message"] and not server.asked[1]["add_generation_prompt"]


async def test_a_server_that_cannot_continue_a_message_gets_a_new_chat_turn() -> None:
    def reply(body: dict[str, Any]) -> dict[str, Any] | int:
        if "continue_final_message" in body:
            return 400
        return completion("NO", [("NO", 0.9), ("YES", 0.05)]) if "logprobs" in body else completion("cones")

    server = Server(reply)
    (answer,) = await engine(server).ask([PHOTO], reasoning_tokens=64)
    assert answer.logit == pytest.approx(math.log(0.05 / 0.9)) and not answer.from_choice
    assert [message["role"] for message in server.asked[-1]["messages"]] == ["user", "assistant", "user"]


async def test_a_clip_is_sent_as_frames_with_timestamps() -> None:
    server = Server(lambda body: completion("YES", TOP))
    frames = (Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue"))
    await engine(server).ask([Prompt("Is there?", frames, (0.0, 1.5))])
    parts = server.asked[0]["messages"][0]["content"]
    assert [part.get("text", "picture") for part in parts] == ["0.0 s", "picture", "1.5 s", "picture", "Is there?"]


async def test_images_are_shrunk_to_max_pixels() -> None:
    server = Server(lambda body: completion("YES", TOP))
    await engine(server, language={"max_pixels": 10_000}).ask([PHOTO])
    data = server.asked[0]["messages"][0]["content"][0]["image_url"]["url"].split(",")[1]
    width, height = Image.open(BytesIO(base64.b64decode(data))).size
    assert 9_000 < width * height <= 10_000


async def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(lambda body: completion("YES", TOP))
    settings = {
        "backend": "openai",
        "model": "m",
        "server": {"url": "http://127.0.0.1:1/v1", "api_key_env": "ROADWORK_TEST_KEY"},
    }
    with pytest.raises(ConfigError, match="the environment has no ROADWORK_TEST_KEY"):
        OpenAiEngine(EngineSpec.model_validate(settings), 5, httpx2.MockTransport(server))
    monkeypatch.setenv("ROADWORK_TEST_KEY", "secret")
    await OpenAiEngine(EngineSpec.model_validate(settings), 5, httpx2.MockTransport(server)).ask([PHOTO])
    assert server.keys == ["Bearer secret"]


async def test_an_unreachable_or_refusing_server_is_named_in_the_error() -> None:
    def gone(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    with pytest.raises(ModelError, match=r"no server answers at http://127\.0\.0\.1:1/v1: start it"):
        await engine(gone).ask([PHOTO])  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"rejects the request for m: .*not with me"):
        await engine(Server(lambda body: 404)).ask([PHOTO])
