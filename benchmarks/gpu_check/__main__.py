"""Check the service on a GPU in under eight minutes: `python -m benchmarks.gpu_check`, or `make gpu-check`.

It opens the engines of a profile as the service does, with random weights at the published sizes, so nothing is
downloaded. Every part is written when it is done, and a later run leaves out the parts that the file has. Without vLLM
the language models run under transformers.
"""

import argparse
import asyncio
import math
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.results import Results, tables
from roadwork_serve.engines.compile_caches import keep_compiled
from roadwork_serve.engines.load_options import LoadOptions

ROOT = Path(__file__).parents[2]
OUT = ROOT / "benchmarks/results"
MODELS = ROOT / "build/gpu-check/models"  # the same at every start: vLLM keeps compiled code by the model's path
PAGE = ROOT / "docs/hardware.md"
BEGIN, END = "<!-- gpu check -->", "<!-- end of gpu check -->"
PARTS = ("start", "agreement", "latency", "reasoning", "backbone", "cascade")
TINY = "cpu, tiny"
LIMIT_S = 480.0


def main(arguments: list[str] | None = None) -> int:
    """Measure. Returns 0 if every part succeeded, and 1 if one failed, as the file records."""
    options = _options(arguments)
    if not options.tiny and not options.bare and (refusal := unfit(options.profile)):
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    keep_compiled()
    import torch

    if not options.tiny and not torch.cuda.is_available():
        print("error: there is no CUDA GPU here; --tiny rehearses the check on a CPU", file=sys.stderr)
        return 1
    gpu = TINY if options.tiny else torch.cuda.get_device_name(0)
    folder = options.out or (ROOT / "build/gpu-check" if options.tiny else OUT)
    results = Results(folder / f"gpu-{_slug(gpu)}.json", gpu)
    try:
        done = {} if options.again else results.read()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    wanted = [part for part in PARTS if "error" in done.get(part, {"error": ""})]
    with tempfile.TemporaryDirectory() as scratch:
        if options.bare:
            _bare(results, wanted, Path(scratch), options)
        else:
            asyncio.run(_service(results, wanted, Path(scratch), options))
    parts = results.read()
    text = tables(gpu, parts)
    print(text)
    if not options.tiny:
        write_table(PAGE, gpu, text)
    return int(any("error" in entry for entry in parts.values()))


def unfit(profile: str) -> str | None:
    """Return why a profile cannot be checked; None if it can. All engines run in this process, on one GPU."""
    from roadwork_serve.errors import ConfigError
    from roadwork_serve.profiles.load import load_profile

    try:
        loaded = load_profile(profile)
    except ConfigError as error:
        return str(error)
    elsewhere = {name: gpu for name in loaded.users() if (gpu := loaded.engines[name].gpu)}
    if not elsewhere:
        return None
    name, gpu = next(iter(elsewhere.items()))
    return (
        f"engines.{name} of profile {loaded.name} is on GPU {gpu}, and this check runs all engines on GPU 0: name a "
        "copy of the profile that has the stages of one GPU alone and no gpu in its engines, one for each GPU, or run "
        "`roadwork serve`"
    )


def write_table(page: Path, gpu: str, text: str) -> None:
    """Add the tables of a GPU to the page, or replace those it has."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    inside, _, after = rest.partition(END)
    sections = [each for each in inside.split("### ")[1:] if not each.startswith(f"{gpu}\n")]
    kept = "".join(f"### {each.strip()}\n\n" for each in sections)
    page.write_text(f"{before}{BEGIN}\n{kept}{text}{END}{after}", encoding="utf-8")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--profile", default="gpu-24gb", help="profile to check; by default %(default)s")
    parser.add_argument("--tiny", action="store_true", help="rehearse on a CPU with untrained miniatures")
    parser.add_argument("--bare", action="store_true", help="needs only torch and transformers; engines one by one")
    parser.add_argument("--again", action="store_true", help="measure the parts again that the file has")
    parser.add_argument("--seconds", type=float, help="time of each measurement; 6, or 0.1 with --tiny")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_args(arguments)
    if options.seconds is None:
        options.seconds = 0.1 if options.tiny else 6.0
    return options


def _slug(gpu: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in gpu.lower()).split())


def _bare(results: Results, wanted: list[str], scratch: Path, options: argparse.Namespace) -> None:
    """Measure the parts that need no profile."""
    from benchmarks.gpu_check import bare

    models: dict[str, Path] = {}
    if options.tiny:
        models = bare.small_checkpoints(scratch)
    device = "cpu" if options.tiny else "cuda"
    load = LoadOptions(dtype="float32" if options.tiny else "bfloat16", device=device)
    if {"start", "latency", "backbone"} & set(wanted):
        try:
            found: Mapping[str, Mapping[str, Any]] = bare.measure(scratch, load, models, options.seconds)
        except Exception as error:  # recorded: a later run tries again
            found = {"start": {"error": describe(error)}}
        for part, entry in found.items():
            results.write(part, entry)


async def _service(results: Results, wanted: list[str], scratch: Path, options: argparse.Namespace) -> None:
    """Measure the parts through the stages of a profile."""
    from benchmarks.gpu_check import service
    from roadwork_serve.profiles.load import load_profile

    has_vllm = find_spec("vllm") is not None
    if options.tiny:
        from roadwork_serve.testbed.minis.untrained import write_all

        profiles = dict(zip(("transformers", "vllm"), write_all(scratch / "untrained"), strict=True))
        published = profile = load_profile(profiles["vllm" if has_vllm else "transformers"])
    else:
        published = load_profile(options.profile)
        profile = service.with_random_weights(published, MODELS)
        if not has_vllm:
            published, profile = service.on_transformers(published), service.on_transformers(profile)
    deadline_s = math.inf if options.tiny else time.monotonic() + LIMIT_S
    if "agreement" in wanted and has_vllm:
        await _part(results, "agreement", partial(service.agreement, profile), deadline_s)
    if not set(wanted) - {"agreement"}:
        return
    try:
        async with service.opened(profile, published, tiny=options.tiny) as opened:
            results.write("start", {"profile": profile.name, "engines": opened.starts})
            parts: dict[str, Callable[[], Awaitable[Mapping[str, Any]]]] = {
                "reasoning": partial(service.reasoning_under_load, opened),
                "cascade": partial(service.cascade, opened, options.seconds),
                "backbone": partial(service.backbone_batches, opened, options.seconds),
                "latency": partial(service.latencies, opened, options.seconds),
            }
            for part, call in parts.items():
                if part in wanted:
                    await _part(results, part, call, deadline_s)
    except Exception as error:  # an engine does not start
        results.write("start", {"error": describe(error)})


async def _part(
    results: Results, part: str, call: Callable[[], Awaitable[Mapping[str, Any]]], deadline_s: float
) -> None:
    """Measure a part, and record its result or why there is none."""
    left_s = None if math.isinf(deadline_s) else max(1.0, deadline_s - time.monotonic())
    began = time.perf_counter()
    try:
        entry = dict(await asyncio.wait_for(call(), left_s))
    except TimeoutError:
        entry = {"error": f"the time of {LIMIT_S:.0f} s for all parts was over; run the command again"}
    except Exception as error:  # recorded: the other parts may work
        entry = {"error": describe(error)}
    results.write(part, entry | {"took_s": round(time.perf_counter() - began, 1)})
    print(f"{part}: {entry.get('error', 'done')}", file=sys.stderr, flush=True)


def describe(error: BaseException) -> str:
    """Return an error's type and message, shortened."""
    return f"{type(error).__name__}: {error}"[:600]


if __name__ == "__main__":
    sys.exit(main())
