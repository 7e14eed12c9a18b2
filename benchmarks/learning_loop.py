"""`make bench-loop`: a server that starts without a head and learns from its own traffic.

Round by round stills of the test track go through a server of its own. Every stage judges a share of them, drawn by
lot; people, for whom the renderer's truth stands in, label those. Then one turn of the wheel: a head is trained on the
journal, stages are calibrated, exits tuned under a bound, the result compared with the policy in force and, when it is
better, put into force. The next round, on scenes nobody has seen, shows what it is worth.
"""

import argparse
import asyncio
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.environment import Environment
from benchmarks.server import ROOT, Server, started
from roadwork_serve.api.api_keys import TEXT_VARIABLE, new_key
from roadwork_serve.atomic_write import write_json
from roadwork_serve.calibration.comparison import PromotionCriteria
from roadwork_serve.calibration.journal_rows import journal_rows
from roadwork_serve.calibration.trajectories import trajectories
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.record import Annotation, JournalRow
from roadwork_serve.journal.store import Store
from roadwork_serve.profiles.flops import flops
from roadwork_serve.retraining import RetrainingResult, RetrainingSettings, retrain
from roadwork_serve.schema import Stats, Verdict
from roadwork_serve.testbed.scene_dataset import draw_scenes, drawing_workers, scene_seed

STAGES = ("backbone", "signs", "vlm", "reasoner")
COLD: dict[str, Any] = {
    "version": "cold",
    "photo": [
        {"stage": "backbone", "exit": [0.0, 1.0]},
        {"stage": "signs", "exit": [0.0, 1.0], "calibration": {"scale": 1.0}, "min_text_probability": 0.4},
        {"stage": "vlm", "exit": [0.05, 0.95]},
        {"stage": "reasoner", "exit": [0.5, 0.5]},
    ],
    "clip": [{"stage": "backbone", "exit": [0.0, 1.0]}, {"stage": "video", "exit": [0.5, 0.5]}],
}
SEED, AT_ONCE, DEADLINE_MS = 9301, 8, 120_000
MAX_LOSS, CONFIDENCE = 0.03, 0.95


@dataclass(frozen=True, slots=True)
class Round:
    """What a round's traffic was answered. n: stills; stage1: share that left there, exits: at each stage.

    tflop: a mean answer, at production prices; with_survey: with what the survey asked beside. surveyed: items that all
    stages have judged and people labelled; surveyed_accuracy, full_accuracy: on these, of the answers and of all stages
    together; loss: the share of them labelled wrong for having left early.
    """

    policy: str
    n: int
    stage1: float
    exits: dict[str, float]
    tflop: float
    with_survey: float
    accuracy: float
    audited: int
    surveyed_accuracy: float
    full_accuracy: float
    loss: float
    seconds: float
    promoted: bool
    why: str


async def send(server: Server, key: str, photos: Sequence[tuple[str, bytes]]) -> list[Verdict]:
    """Return the answers to photos, by request id, so many at once."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/jpeg"}
    waiting = iter(photos)
    verdicts: list[Verdict] = []

    async def work(session: aiohttp.ClientSession) -> None:
        for name, data in waiting:
            url = f"{server.url}/v1/classify?deadline_ms={DEADLINE_MS}"
            async with session.post(url, data=data, headers={"X-Request-Id": name}) as reply:
                reply.raise_for_status()
                verdicts.append(Verdict.model_validate_json(await reply.read()))

    async with aiohttp.ClientSession(headers=headers) as session, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work(session))
    return verdicts


async def settled(server: Server, key: str, drawn: int) -> None:
    """Return when every survey has been judged or given up, and the journal has all of it."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session, asyncio.timeout(120):
        while True:
            async with session.get(f"{server.url}/v1/stats") as reply:
                (load,) = Stats.model_validate_json(await reply.read()).replicas
            tally, journal = load.audit, load.journal
            if tally and journal and tally.completed + tally.abandoned >= drawn and not journal.pending:
                return
            await asyncio.sleep(0.2)


async def put(server: Server, key: str, policy: dict[str, Any], share: float) -> None:
    """Bring a policy into force, with a survey."""
    rules = {"policy": policy, "audit": {"share": share, "max_concurrent": 16}}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        async with session.put(f"{server.url}/v1/policy", json=rules) as reply:
            if reply.status != 200:
                raise RuntimeError(await reply.text())


def drawn_scenes(number: int, count: int) -> tuple[list[tuple[str, bytes]], dict[str, bool]]:
    """Return a round's photos, and what is true of each; no round shares a scene with another, or with any training."""
    seeds = [scene_seed(SEED, 100_000 * number + at) for at in range(count)]
    samples = list(draw_scenes([(seed, "photo") for seed in seeds], drawing_workers()))
    return [(s.metadata.name, s.data) for s in samples], {s.metadata.name: s.metadata.label for s in samples}


def label(store: Store, cases: Sequence[JournalRow], truth: dict[str, bool]) -> None:
    """People label what every stage has judged."""
    asked = [case for case in cases if case.audit is not None and case.annotation is None]
    now = time.time()
    store.annotate(
        [
            (
                case.prediction.id,
                Annotation("roadwork" if truth[case.prediction.verdict.request_id] else "none", "renderer", now),
            )
            for case in asked
            if case.prediction.verdict.request_id in truth
        ]
    )


def told(
    verdicts: Sequence[Verdict], cases: Sequence[JournalRow], truth: dict[str, bool], policy: Policy, seconds: float
) -> Round:
    """Return the figures of a round, before it is learned from."""
    asked = [[r.stage for r in v.stages if r.outcome in ("answered", "abstained")] for v in verdicts]
    beside = [[r.stage for r in case.audit] for case in cases if case.audit]
    spent = sum(flops(stages, "photo") for stages in asked)
    more = sum(flops(stages, "photo") for stages in beside)
    exits = Counter(v.exit.stage for v in verdicts)
    rows = [row for row in journal_rows(cases, policy) if not row.metadata.pseudo_labeled]
    whole = trajectories(rows, policy, "photo")
    low, high = (np.array([getattr(step, edge) for step in policy.photo]) for edge in ("low", "high"))
    said, n = whole.apply_bands(low, high)[0], len(verdicts)
    return Round(
        policy=policy.version,
        n=n,
        stage1=exits["backbone"] / n,
        exits={stage: exits[stage] / n for stage in STAGES},
        tflop=spent / n / 1e12,
        with_survey=(spent + more) / n / 1e12,
        accuracy=sum((v.label == "roadwork") == truth[v.request_id] for v in verdicts) / n,
        audited=len(rows),
        surveyed_accuracy=float(np.mean(said == whole.truth)),
        full_accuracy=float(np.mean((whole.posterior[:, -1] >= whole.decision_threshold) == whole.truth)),
        loss=float(whole.early_exit_errors(said).mean()),
        seconds=seconds,
        promoted=False,
        reason="",
    )


async def turn_round(
    server: Server, key: str, rounds: int, stills: int, share: float, out: Path, console: Console
) -> tuple[list[Round], list[RetrainingResult]]:
    """Return the rounds, and what was learned after each but the last."""
    policy = Policy.parse(COLD)
    await put(server, key, policy.to_mapping(), share)
    found, learned, drawn, truth = list[Round](), list[RetrainingResult](), 0, dict[str, bool]()
    scenes = asyncio.create_task(asyncio.to_thread(drawn_scenes, 0, stills))
    for number in range(rounds + 1):
        photos, true = await scenes
        truth |= true
        if number < rounds:
            scenes = asyncio.create_task(asyncio.to_thread(drawn_scenes, number + 1, stills))
        began, at_s = time.monotonic(), time.time()
        verdicts = await send(server, key, photos)
        drawn += sum(verdict.audit_rate is not None for verdict in verdicts)
        await settled(server, key, drawn)
        seconds = time.monotonic() - began
        store = Store.open(server.journal)
        label(store, list(store.find(Filter(since_s=at_s, audited=True))), true)
        cases = list(store.find())
        store.close()
        fresh = [case for case in cases if case.prediction.created_at_s >= at_s]
        this = told(verdicts, fresh, true, policy, seconds)
        if number < rounds:
            settings = RetrainingSettings(
                MAX_LOSS, CONFIDENCE, criteria=PromotionCriteria(max_accuracy_loss=2 * MAX_LOSS)
            )
            turned = await asyncio.to_thread(retrain, cases, policy, out / f"{number}", f"round-{number + 1}", settings)
            learned.append(turned)
            this = Round(**{**asdict(this), "promoted": turned.promoted, "why": turned.reason})
            if turned.promoted:
                policy = turned.policy
                await put(server, key, policy.to_mapping(), share)
        found.append(this)
        console.print(
            f"round {number}: {this.policy}, {this.stage1:.1%} left at stage 1, {this.tflop:.2f} TFLOP, accuracy "
            f"{this.accuracy:.4f} (all stages {this.full_accuracy:.4f}, loss {this.loss:.4f} of {this.audited}), "
            f"{seconds:.0f} s; {'promoted' if this.promoted else 'kept'}: {this.why}",
            highlight=False,
        )
    return found, learned


def checks(rounds: Sequence[Round]) -> dict[str, bool]:
    """Return the checks. Accuracy is compared on the same items, those with an audit."""
    first, last = rounds[0], rounds[-1]
    certified = [each for each in rounds if each.policy != "cold"]
    n = max(1, sum(each.audited for each in certified))
    loss = sum(each.loss * each.audited for each in certified) / n
    behind = sum((each.full_accuracy - each.surveyed_accuracy) * each.audited for each in certified) / n
    return {
        "there were at least four rounds after the first": len(rounds) >= 5,
        "at first nobody leaves at stage 1": first.stage1 == 0,
        "in the end at least 60 % leave at stage 1": last.stage1 >= 0.6,
        "mean FLOPs fall at least 3x": first.tflop / last.tflop >= 3,
        f"under a promise exits spoil at most {MAX_LOSS:.0%} of the traffic": bool(certified) and loss <= MAX_LOSS,
        f"under a promise accuracy is within {MAX_LOSS:.0%} of that of all stages": bool(certified)
        and behind <= MAX_LOSS,
    }


def main(arguments: list[str] | None = None) -> int:
    """0 when every check held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="turns of the wheel")
    parser.add_argument("--stills", type=int, default=400, help="a round")
    parser.add_argument("--share", type=float, default=0.6, help="of the stills that every stage judges")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/learning_loop.json")
    chosen = parser.parse_args(arguments)
    console, began = Console(width=200), time.monotonic()
    command = " ".join(["python -m benchmarks.learning_loop", *(sys.argv[1:] if arguments is None else arguments)])
    environment = Environment.here(command)
    folder = ROOT / "build/learning_loop"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(weights_folder("mini:backbone"), folder / "backbone", ignore=shutil.ignore_patterns("head.*"))
    secret, key = new_key("learning-loop", "admin")
    engines = {"dinov3": {"model": str(folder / "backbone"), "num_cpus": 0.25}}
    args = {"profile": "mini", "overrides": {"engines": engines, "stages": {"vlm": {"slots": 1}}}}
    with started(folder / "server.log", args, {TEXT_VARIABLE: key.entry()}) as server:
        rounds, _ = asyncio.run(
            turn_round(server, secret, chosen.rounds, chosen.stills, chosen.share, folder / "rounds", console)
        )
    held = checks(rounds)
    table = Table("round", "policy", "at stage 1", "TFLOP", "with survey", "accuracy", "all stages", "loss", box=None)
    for number, each in enumerate(rounds):
        numbers = (f"{each.stage1:.1%}", f"{each.tflop:.2f}", f"{each.with_survey:.2f}", f"{each.accuracy:.4f}")
        table.add_row(str(number), each.policy, *numbers, f"{each.full_accuracy:.4f}", f"{each.loss:.4f}")
    console.print(table)
    for what, holds in held.items():
        console.print(f"{'held  ' if holds else 'BROKEN'} {what}", highlight=False)
    took = time.monotonic() - began
    write_json(
        chosen.out,
        {
            "environment": asdict(environment),
            "risk_limit": MAX_LOSS,
            "confidence": CONFIDENCE,
            "share_surveyed": chosen.share,
            "rounds": [asdict(each) for each in rounds],
            "checks": held,
            "seconds": took,
        },
    )
    _plot(chosen.out.with_suffix(".png"), rounds)
    console.print(f"Written to {chosen.out}, with a picture beside it, after {took:.0f} s.")
    return 0 if all(held.values()) else 1


def _plot(path: Path, rounds: Sequence[Round]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained", dpi=110)
    panels = figure.subplots(1, 3)
    at = range(len(rounds))
    panels[0].plot(at, [100 * each.stage1 for each in rounds], marker="o", color="#0072b2")
    panels[0].set(title="left at stage 1, %", ylim=(0, 100))
    panels[1].plot(at, [each.tflop for each in rounds], marker="o", color="#0072b2", label="answers")
    panels[1].plot(at, [each.with_survey for each in rounds], marker=".", color="#999999", label="with the survey")
    panels[1].set(title="TFLOP an item, production prices")
    panels[1].set_ylim(bottom=0)
    panels[1].legend(frameon=False)
    panels[2].plot(at, [100 * each.accuracy for each in rounds], marker="o", color="#0072b2", label="answers")
    panels[2].plot(at, [100 * each.full_accuracy for each in rounds], marker=".", color="#999999", label="all stages")
    panels[2].set(title="accuracy against truth, %")
    panels[2].legend(frameon=False)
    for panel in panels:
        panel.set(xlabel="round", xticks=list(at))
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
