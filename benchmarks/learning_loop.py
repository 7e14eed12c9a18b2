"""Run the learning loop on a server that starts without a head: `make bench-loop`.

In each round rendered stills are sent to the server. All stages judge a random share of them, which are labeled with
the ground truth of the renderer in place of human labels. Then `retrain` runs on the journal: it trains a head,
calibrates the stages, tunes the exits under an error bound, and compares the result with the active policy, which it
replaces if it is better. The next round, on new scenes, measures the new policy.
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
SEED, CONCURRENCY, DEADLINE_MS = 9301, 8, 120_000
RISK_LIMIT, CONFIDENCE = 0.03, 0.95


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of a round's traffic."""

    policy: str
    #: Number of stills.
    n: int
    #: Share of stills that exited at stage 1.
    stage1_share: float
    #: Share of stills that exited at each stage.
    exits: dict[str, float]
    #: Mean per verdict, for the production models.
    tflop: float
    #: The same including audits.
    tflop_with_audits: float
    accuracy: float
    #: Items that all stages judged and that were labeled.
    audited: int
    #: Accuracy of the verdicts on audited items.
    audited_accuracy: float
    #: Accuracy of all stages together on audited items.
    full_accuracy: float
    #: Share of audited items that were misclassified because they exited early.
    early_exit_error_rate: float
    seconds: float
    promoted: bool
    #: Reason for promoting the new policy or not.
    reason: str


async def send(server: Server, key: str, photos: Sequence[tuple[str, bytes]]) -> list[Verdict]:
    """Send photos with CONCURRENCY clients and return the verdicts."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/jpeg"}
    waiting = iter(photos)
    verdicts: list[Verdict] = []

    async def send_next(session: aiohttp.ClientSession) -> None:
        for name, data in waiting:
            url = f"{server.url}/v1/classify?deadline_ms={DEADLINE_MS}"
            async with session.post(url, data=data, headers={"X-Request-Id": name}) as reply:
                reply.raise_for_status()
                verdicts.append(Verdict.model_validate_json(await reply.read()))

    async with aiohttp.ClientSession(headers=headers) as session, asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(send_next(session))
    return verdicts


async def wait_until_journaled(server: Server, key: str, audited_count: int) -> None:
    """Wait until all audits are completed or abandoned and the journal has every record."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session, asyncio.timeout(120):
        while True:
            async with session.get(f"{server.url}/v1/stats") as reply:
                (load,) = Stats.model_validate_json(await reply.read()).replicas
            audit, journal = load.audit, load.journal
            if audit and journal and audit.completed + audit.abandoned >= audited_count and not journal.pending:
                return
            await asyncio.sleep(0.2)


async def deploy_policy(server: Server, key: str, policy: dict[str, Any], share: float) -> None:
    """Deploy a policy, with an audit of this share of the traffic."""
    rollout = {"policy": policy, "audit": {"share": share, "max_concurrent": 16}}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        async with session.put(f"{server.url}/v1/policy", json=rollout) as reply:
            if reply.status != 200:
                raise RuntimeError(await reply.text())


def render_scenes(number: int, count: int) -> tuple[list[tuple[str, bytes]], dict[str, bool]]:
    """Return the photos of a round and their labels by name. No two rounds share a scene, nor do they with training."""
    seeds = [scene_seed(SEED, 100_000 * number + at) for at in range(count)]
    samples = list(draw_scenes([(seed, "photo") for seed in seeds], drawing_workers()))
    return [(s.metadata.name, s.data) for s in samples], {s.metadata.name: s.metadata.label for s in samples}


def label(store: Store, journal: Sequence[JournalRow], truth: dict[str, bool]) -> None:
    """Label the audited items with the ground truth."""
    unlabeled = [entry for entry in journal if entry.audit is not None and entry.annotation is None]
    now = time.time()
    store.annotate(
        [
            (
                entry.prediction.id,
                Annotation("roadwork" if truth[entry.prediction.verdict.request_id] else "none", "renderer", now),
            )
            for entry in unlabeled
            if entry.prediction.verdict.request_id in truth
        ]
    )


def summarize(
    verdicts: Sequence[Verdict], journal: Sequence[JournalRow], truth: dict[str, bool], policy: Policy, seconds: float
) -> Round:
    """Return the figures of a round, before retraining."""
    stages_run = [[r.stage for r in v.stages if r.outcome in ("answered", "abstained")] for v in verdicts]
    audit_stages = [[r.stage for r in entry.audit] for entry in journal if entry.audit]
    flops_spent = sum(flops(stages, "photo") for stages in stages_run)
    audit_flops = sum(flops(stages, "photo") for stages in audit_stages)
    exits = Counter(v.exit.stage for v in verdicts)
    rows = [row for row in journal_rows(journal, policy) if not row.metadata.pseudo_labeled]
    full = trajectories(rows, policy, "photo")
    low, high = (np.array([getattr(step, edge) for step in policy.photo]) for edge in ("low", "high"))
    predictions, n = full.apply_bands(low, high)[0], len(verdicts)
    return Round(
        policy=policy.version,
        n=n,
        stage1_share=exits["backbone"] / n,
        exits={stage: exits[stage] / n for stage in STAGES},
        tflop=flops_spent / n / 1e12,
        tflop_with_audits=(flops_spent + audit_flops) / n / 1e12,
        accuracy=sum((v.label == "roadwork") == truth[v.request_id] for v in verdicts) / n,
        audited=len(rows),
        audited_accuracy=float(np.mean(predictions == full.truth)),
        full_accuracy=float(np.mean((full.posterior[:, -1] >= full.decision_threshold) == full.truth)),
        early_exit_error_rate=float(full.early_exit_errors(predictions).mean()),
        seconds=seconds,
        promoted=False,
        reason="",
    )


async def run_rounds(
    server: Server, key: str, rounds: int, stills: int, share: float, out: Path, console: Console
) -> tuple[list[Round], list[RetrainingResult]]:
    """Run the rounds. Returns their figures, and the result of retraining after each but the last."""
    policy = Policy.parse(COLD)
    await deploy_policy(server, key, policy.to_mapping(), share)
    found, learned, audited_count, truth = list[Round](), list[RetrainingResult](), 0, dict[str, bool]()
    scenes = asyncio.create_task(asyncio.to_thread(render_scenes, 0, stills))
    for number in range(rounds + 1):
        photos, true = await scenes
        truth |= true
        if number < rounds:
            scenes = asyncio.create_task(asyncio.to_thread(render_scenes, number + 1, stills))
        began, at_s = time.monotonic(), time.time()
        verdicts = await send(server, key, photos)
        audited_count += sum(verdict.audit_rate is not None for verdict in verdicts)
        await wait_until_journaled(server, key, audited_count)
        seconds = time.monotonic() - began
        store = Store.open(server.journal)
        label(store, list(store.find(Filter(since_s=at_s, audited=True))), true)
        journal = list(store.find())
        store.close()
        fresh = [entry for entry in journal if entry.prediction.created_at_s >= at_s]
        summary = summarize(verdicts, fresh, true, policy, seconds)
        if number < rounds:
            settings = RetrainingSettings(
                RISK_LIMIT, CONFIDENCE, criteria=PromotionCriteria(max_accuracy_loss=2 * RISK_LIMIT)
            )
            retrained = await asyncio.to_thread(
                retrain, journal, policy, out / f"{number}", f"round-{number + 1}", settings
            )
            learned.append(retrained)
            summary = Round(**{**asdict(summary), "promoted": retrained.promoted, "reason": retrained.reason})
            if retrained.promoted:
                policy = retrained.policy
                await deploy_policy(server, key, policy.to_mapping(), share)
        found.append(summary)
        console.print(
            f"round {number}: {summary.policy}, {summary.stage1_share:.1%} exited at stage 1, "
            f"{summary.tflop:.2f} TFLOP, accuracy {summary.accuracy:.4f}; on {summary.audited} audited items: "
            f"all stages {summary.full_accuracy:.4f}, early-exit errors {summary.early_exit_error_rate:.4f}; "
            f"{seconds:.0f} s; {'promoted' if summary.promoted else 'not promoted'}: {summary.reason}",
            highlight=False,
        )
    return found, learned


def checks(rounds: Sequence[Round]) -> dict[str, bool]:
    """Return the outcome of each check. Accuracies are compared on the same items, the audited ones."""
    first, last = rounds[0], rounds[-1]
    certified = [each for each in rounds if each.policy != "cold"]
    n = max(1, sum(each.audited for each in certified))
    early_exit_error_rate = sum(each.early_exit_error_rate * each.audited for each in certified) / n
    accuracy_loss = sum((each.full_accuracy - each.audited_accuracy) * each.audited for each in certified) / n
    return {
        "at least four rounds after the first": len(rounds) >= 5,
        "no exits at stage 1 in the first round": first.stage1_share == 0,
        "at least 60 % exit at stage 1 in the last round": last.stage1_share >= 0.6,
        "mean FLOPs fall at least 3x": first.tflop / last.tflop >= 3,
        f"early exits of certified policies cause at most {RISK_LIMIT:.0%} errors": bool(certified)
        and early_exit_error_rate <= RISK_LIMIT,
        f"accuracy of certified policies is within {RISK_LIMIT:.0%} of that of all stages": bool(certified)
        and accuracy_loss <= RISK_LIMIT,
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark. Returns 0 if every check passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="retraining rounds")
    parser.add_argument("--stills", type=int, default=400, help="stills per round")
    parser.add_argument("--share", type=float, default=0.6, help="share of the stills that all stages judge")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/learning_loop.json", help="result file")
    options = parser.parse_args(arguments)
    console, began = Console(width=200), time.monotonic()
    command = " ".join(["python -m benchmarks.learning_loop", *(sys.argv[1:] if arguments is None else arguments)])
    environment = Environment.here(command)
    folder = ROOT / "build/learning_loop"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(weights_folder("bundled:backbone"), folder / "backbone", ignore=shutil.ignore_patterns("head.*"))
    secret, key = new_key("learning-loop", "admin")
    heads = {"policy_heads": str(folder / "rounds")}
    engines = {"dinov3": {"model": str(folder / "backbone"), "num_cpus": 0.25, "features": heads}}
    args = {"profile": "mini", "overrides": {"engines": engines, "stages": {"vlm": {"slots": 1}}}}
    with started(folder / "server.log", args, {TEXT_VARIABLE: key.entry()}) as server:
        rounds, _ = asyncio.run(
            run_rounds(server, secret, options.rounds, options.stills, options.share, folder / "rounds", console)
        )
    results = checks(rounds)
    table = Table("round", "policy", "at stage 1", "TFLOP", "with audits", "accuracy", "all stages", "errors", box=None)
    for number, each in enumerate(rounds):
        numbers = (
            f"{each.stage1_share:.1%}",
            f"{each.tflop:.2f}",
            f"{each.tflop_with_audits:.2f}",
            f"{each.accuracy:.4f}",
        )
        table.add_row(
            str(number), each.policy, *numbers, f"{each.full_accuracy:.4f}", f"{each.early_exit_error_rate:.4f}"
        )
    console.print(table)
    for claim, ok in results.items():
        console.print(f"{'passed' if ok else 'FAILED'} {claim}", highlight=False)
    took = time.monotonic() - began
    write_json(
        options.out,
        {
            "environment": asdict(environment),
            "risk_limit": RISK_LIMIT,
            "confidence": CONFIDENCE,
            "audit_share": options.share,
            "rounds": [asdict(each) for each in rounds],
            "checks": results,
            "seconds": took,
        },
    )
    _plot(options.out.with_suffix(".png"), rounds)
    console.print(f"Written to {options.out}, with a plot beside it, after {took:.0f} s.")
    return 0 if all(results.values()) else 1


def _plot(path: Path, rounds: Sequence[Round]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained", dpi=110)
    panels = figure.subplots(1, 3)
    at = range(len(rounds))
    panels[0].plot(at, [100 * each.stage1_share for each in rounds], marker="o", color="#0072b2")
    panels[0].set(title="exits at stage 1, %", ylim=(0, 100))
    panels[1].plot(at, [each.tflop for each in rounds], marker="o", color="#0072b2", label="verdicts")
    panels[1].plot(at, [each.tflop_with_audits for each in rounds], marker=".", color="#999999", label="with audits")
    panels[1].set(title="TFLOP per item, production models")
    panels[1].set_ylim(bottom=0)
    panels[1].legend(frameon=False)
    panels[2].plot(at, [100 * each.accuracy for each in rounds], marker="o", color="#0072b2", label="verdicts")
    panels[2].plot(at, [100 * each.full_accuracy for each in rounds], marker=".", color="#999999", label="all stages")
    panels[2].set(title="accuracy, %")
    panels[2].legend(frameon=False)
    for panel in panels:
        panel.set(xlabel="round", xticks=list(at))
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
