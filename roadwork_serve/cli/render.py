"""Verdicts and evaluations as tables that people read."""

import math
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from roadwork_serve.evaluation.challenges import SubnetScore
from roadwork_serve.evaluation.metrics import Confusion
from roadwork_serve.evaluation.photo_report import PhotoReport
from roadwork_serve.evaluation.report import EvaluationReport, Subset
from roadwork_serve.profiles.plan import PlacementPlan
from roadwork_serve.schema import BatchResult, Verdict

_REASONS = {
    "above_band": "sure of it",
    "below_band": "sure of none",
    "last_stage": "last word",
    "deadline": "out of time",
    "failed": "later stage failed",
}


def print_results(console: Console, result: BatchResult) -> None:
    """One line a file: the answer, where and why it left, what was seen. Below them, what is wrong with which files."""
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    for name in ("answer", "P(roadwork)", "left at", "because", "ms"):
        table.add_column(name, no_wrap=True)
    table.add_column("seen", overflow="fold")
    wrong: dict[str, list[str]] = {}
    for entry in result.results:
        if (verdict := entry.verdict) is not None:
            table.add_row(
                escape(entry.filename),
                ("[bold]roadwork[/]" if verdict.label == "roadwork" else "none")
                + (" [yellow](degraded)[/]" if verdict.degraded else ""),
                f"{verdict.probability:.3f}",
                verdict.exit.stage,
                _REASONS[verdict.exit.reason],
                f"{verdict.elapsed_ms:.0f}",
                escape(_seen(verdict)),
            )
        elif (problem := entry.problem) is not None:
            table.add_row(escape(entry.filename), "[red]problem[/]")
            wrong.setdefault(f"{problem.title}: {problem.detail}", []).append(entry.filename)
    console.print(table)
    for told, names in wrong.items():
        console.print(f"[red]{escape(', '.join(names))}[/]: {escape(told)}", soft_wrap=True)
    if any(stage.miniature for entry in result.results if entry.verdict for stage in entry.verdict.stages):
        console.print("[dim]Answered by miniatures, which are for trying the system out, not for relying on.[/]")


def print_plan(console: Console, plan: PlacementPlan) -> None:
    """The memory of each card by engine, GiB, how full one can get, and what the caches hold."""
    for index, card in enumerate(plan.cards):
        table = Table(title=f"card {index}, {card.gib:g} GiB, {card.share:g} of it promised", box=None, pad_edge=False)
        table.add_column("engine", overflow="fold")
        for name in ("weights", "cache", "work", "context", "spare", "GiB"):
            table.add_column(name, justify="right", no_wrap=True)
        for need in card.needs:
            parts = (need.weights, need.kv_cache, need.activations, need.context, need.spare, need.total)
            about = f"{escape(need.engine)}\n[dim]{escape(need.model.rpartition('/')[2])}[/]"
            table.add_row(about, *(f"{gib:.2f}" for gib in parts))
        table.add_row("left", "", "", "", "", "", f"{card.left:.2f}", style="bold")
        console.print(table, "")
    if not plan.most:
        console.print("No engine of this profile is on a card: all run on the CPU.")
        return
    for card in plan.fullest:
        engines = escape(", ".join(need.engine for need in card.needs))
        console.print(
            f"Ray may put them elsewhere. However it does, a card of {card.gib:g} GiB keeps {card.left:.2f} free; "
            f"the fullest holds {engines}."
        )
    caches = {need.engine: need for card in plan.cards for need in card.needs if need.holds is not None}
    for name, need in caches.items():
        console.print(
            f"{escape(name)}: the cache holds {need.holds:.1f} prompts of full context, and {need.prompts} may be in "
            "work; those that find no room in it wait."
        )
    if more := [f"{escape(name)} {count}" for name, count in plan.most.items() if count > 1]:
        console.print(f"Replicas that have room under load: {', '.join(more)}.")
    console.print("[dim]Weights are counted; work (activations, CUDA graphs) and CUDA's contexts are estimates.[/]")


def print_report(console: Console, report: EvaluationReport) -> None:
    """Everything in a report but the items themselves."""
    console.print(
        f"\n[bold]{report.n_stills} stills and {report.n_clips} clips[/], profile {report.profile}, "
        f"policy {report.policy_version}, {_number(report.elapsed_s, '.0f')} s"
    )
    numbers = Table("", "stills", "clips", box=None, pad_edge=False)
    numbers.add_row("accuracy", _number(report.accuracy), _number(report.accuracy_clips))
    numbers.add_row("  stage 1 alone", _number(report.accuracy_stage1), "")
    numbers.add_row("  fast VLM alone, on all", _number(report.accuracy_vlm_all), "")
    numbers.add_row("  at the threshold best here", _number(report.accuracy_vlm_all_best), "")
    for name in ("mcc", "auc", "brier", "ece", "reward"):
        label = {"reward": "subnet reward", "ece": "ECE (15 bins)", "brier": "Brier score"}.get(name, name.upper())
        numbers.add_row(label, _number(getattr(report, name)), "")
    numbers.add_row("confusion", _counts(report.confusion), _counts(report.confusion_clips))
    gflops = (report.gflops_per_still, report.gflops_per_clip)
    numbers.add_row("GFLOP an item, production size", *(_number(value, ",.0f") for value in gflops))
    numbers.add_row("times less than VLM or video on all", *(
        _number(value, ".2f") for value in (report.flops_ratio, report.flops_ratio_clips)
    ))  # fmt: skip
    console.print(numbers)
    _print_exits(console, report)
    if report.photos is not None:
        _print_photos(console, report.photos)
    if report.earned is not None:
        _print_earned(console, report.earned)
    if report.degraded:
        console.print(f"[yellow]{report.degraded} verdicts are degraded: a stage that was wanted failed.[/]")
    for failure in report.failed:
        console.print(f"[red]{escape(failure.name)} got no verdict:[/] {escape(failure.message)}")
    models = ", ".join(f"{stage}: {model}" for stage, model in report.models.items())
    console.print(f"[dim]Models: {escape(models)}[/]")


def _print_earned(console: Console, earned: SubnetScore) -> None:
    table = Table("\nchallenges that are", "\nn", "\naccuracy", "\nMCC", "\nreward", box=None, pad_edge=False)
    for look, part in earned.by_look.items():
        table.add_row(look, str(part.n), *(_number(value) for value in (part.accuracy, part.mcc, part.reward)))
    console.print(table)
    console.print(
        f"Subnet 72 would have paid {_number(earned.reward)} on average, 1 at best; a validator would hold a score of "
        f"{_number(earned.score)} after these {earned.challenges}."
    )


def _print_exits(console: Console, report: EvaluationReport) -> None:
    for what, mix, parts in (
        ("stills", report.exit_mix, report.by_needs),
        ("clips", report.exit_mix_clips, report.by_needs_clips),
    ):
        if mix:
            heading = f"{what} by what they need" if parts else what
            table = Table(f"\n{heading}", "\nn", "\naccuracy", *_heads(mix), box=None, pad_edge=False)
            for needs, part in parts.items():
                table.add_row(needs, str(part.n), _number(part.accuracy), *_shares(part, mix))
            table.add_row("all", "", "", *(f"{share:.1%}" for share in mix.values()))
            console.print(table)


def _heads(mix: Mapping[str, float]) -> Iterable[str]:
    return [("left at\n" if index == 0 else "\n") + stage for index, stage in enumerate(mix)]


def _shares(part: Subset, mix: Mapping[str, float]) -> Iterable[str]:
    return [f"{part.exit_mix.get(stage, 0):.1%}" for stage in mix]


def _print_photos(console: Console, photos: PhotoReport) -> None:
    console.print(f"\n[yellow]{photos.caveat}[/]")
    for what, parts in (("group", photos.by_group), ("source", photos.by_source), ("licence", photos.by_licence)):
        table = Table(f"stills by {what}", "n", "right", "TP", "FP", "FN", "TN", box=None, pad_edge=False)
        for name, c in parts.items():
            counts = (c.n, c.tp + c.tn, c.tp, c.fp, c.fn, c.tn)
            table.add_row(escape(name), *map(str, counts))
        console.print(table, "")
    false = photos.hard_negatives_said_roadwork
    console.print(f"Hard negatives called roadwork: {len(false)} of {photos.hard_negatives}", *map(escape, false))
    table = Table("clip", "truth", "answer", "P(roadwork)", "left at", box=None, pad_edge=False)
    for clip in photos.clips:
        truth = "unclear" if clip.label is None else _label(clip.label)
        table.add_row(escape(clip.name), truth, _label(clip.said), f"{clip.probability:.3f}", clip.exit_stage)
    console.print(table)


def _seen(verdict: Verdict) -> str:
    """The words that mean something, else what a thinking model wrote."""
    words = [word.text for stage in verdict.stages for word in stage.evidence.words if word.meaning]
    thoughts = [stage.evidence.thought for stage in verdict.stages if stage.evidence.thought]
    return " / ".join([f'"{word}"' for word in words] + thoughts)


def _label(said: bool) -> str:
    return "roadwork" if said else "none"


def _counts(c: Confusion) -> str:
    return f"TP {c.tp} FP {c.fp} FN {c.fn} TN {c.tn}" if c.n else ""


def _number(value: float, form: str = ".4f") -> str:
    return "" if math.isnan(value) else format(value, form)
