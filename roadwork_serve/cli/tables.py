"""Tables of verdicts, placement plans and evaluations, for the terminal."""

import math
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from roadwork_serve.evaluation.by_source import SourceReport, StageComparison
from roadwork_serve.evaluation.challenges import SubnetScore
from roadwork_serve.evaluation.metrics import Confusion
from roadwork_serve.evaluation.report import EvaluationReport, Subset
from roadwork_serve.profiles.flops import StageFlops
from roadwork_serve.profiles.host_needs import HostNeed
from roadwork_serve.profiles.nvml import NvmlReading
from roadwork_serve.profiles.plan import PlacementPlan
from roadwork_serve.schema import BatchResult, Verdict
from roadwork_serve.terminal import foreign

_REASONS = {
    "above_band": "confident",
    "below_band": "confident",
    "last_stage": "last stage",
    "deadline": "deadline",
    "failed": "later stage failed",
}


def print_results(console: Console, result: BatchResult) -> None:
    """Print a line for each file: the verdict, the exit, and the evidence. Problems follow below."""
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    for name in ("label", "probability", "exit", "reason", "ms"):
        table.add_column(name, no_wrap=True)
    table.add_column("evidence", overflow="fold")
    problems: dict[str, list[str]] = {}
    for entry in result.results:
        if (verdict := entry.verdict) is not None:
            table.add_row(
                foreign(entry.filename),
                (f"[bold]{verdict.label}[/]" if verdict.positive else verdict.label)
                + (" [yellow](degraded)[/]" if verdict.degraded else "")
                + (" [yellow](incomplete)[/]" if verdict.incomplete else ""),
                f"{verdict.probability:.3f}",
                verdict.exit.stage,
                _REASONS[verdict.exit.reason],
                f"{verdict.elapsed_ms:.0f}",
                foreign(_evidence(verdict)),
            )
        elif (problem := entry.problem) is not None:
            table.add_row(foreign(entry.filename), "[red]problem[/]")
            problems.setdefault(f"{problem.title}: {problem.detail}", []).append(entry.filename)
    console.print(table)
    for message, names in problems.items():
        console.print(f"[red]{foreign(', '.join(names))}[/]: {foreign(message)}", soft_wrap=True)
    if any(stage.miniature for entry in result.results if entry.verdict for stage in entry.verdict.stages):
        console.print(
            "[dim]These verdicts come from miniatures. They are for trying the system out; do not rely on them.[/]"
        )


def print_plan(console: Console, plan: PlacementPlan) -> None:
    """Print the memory of each GPU by engine in GiB, the fullest possible placement, and the size of the caches."""
    for index, gpu in enumerate(plan.gpus):
        table = Table(title=f"GPU {index}, {gpu.gib:g} GiB, {gpu.share:g} of it reserved", box=None, pad_edge=False)
        table.add_column("engine", overflow="fold")
        for column in ("weights", "cache", "work", "context", "reserved", "GiB"):
            table.add_column(column, justify="right", no_wrap=True)
        for need in gpu.needs:
            parts = (need.weights, need.kv_cache, need.activations, need.context, need.reserved, need.total)
            name = f"{foreign(need.engine)}\n[dim]{foreign(need.model.rpartition('/')[2])}[/]"
            table.add_row(name, *(f"{gib:.2f}" for gib in parts))
        table.add_row("free", "", "", "", "", "", f"{gpu.free:.2f}", style="bold")
        console.print(table, "")
    if not plan.max_replicas:
        console.print("No engine of this profile uses a GPU: all run on the CPU.")
        return
    for gpu in plan.fullest:
        engines = foreign(", ".join(need.engine for need in gpu.needs))
        console.print(
            f"Ray may choose another placement. In the fullest one, a GPU of {gpu.gib:g} GiB has {gpu.free:.2f} "
            f"free: it runs {engines}."
        )
    caches = {need.engine: need for gpu in plan.gpus for need in gpu.needs if need.cached_prompts is not None}
    for name, need in caches.items():
        console.print(
            f"{foreign(name)}: the cache holds {need.cached_prompts:.1f} prompts of full context, and "
            f"{need.prompts} may run at once; the others wait."
        )
    if more := [f"{foreign(name)} {count}" for name, count in plan.max_replicas.items() if count > 1]:
        console.print(f"Largest number of replicas: {', '.join(more)}.")
    console.print("[dim]Weights are exact; work (activations, CUDA graphs) and CUDA contexts are estimates.[/]")


def print_gpus(console: Console, reading: NvmlReading) -> None:
    """Print the GPUs of this machine, and the processes that hold their memory."""
    for gpu in reading.gpus:
        held = f", held by {foreign(gpu.holders)}" if gpu.holders else ""
        hidden = "" if gpu.visible else ", not in CUDA_VISIBLE_DEVICES"
        console.print(
            f"GPU {gpu.index}, {foreign(gpu.name)}: {gpu.free_gib:g} of {gpu.total_gib:g} GiB free{held}{hidden}",
            soft_wrap=True,
        )
    console.print("")


def print_host_needs(console: Console, needs: Sequence[HostNeed]) -> None:
    """Print the memory and the cores that the parts of a server need on the host."""
    table = Table("part", title="Host", box=None, pad_edge=False)
    for column in ("memory, GiB", "cores"):
        table.add_column(column, justify="right", no_wrap=True)
    for need in needs:
        table.add_row(foreign(need.part), f"{need.gib:.1f}", f"{need.cores:.1f}" if need.cores else "")
    table.add_row(
        "sum", f"{sum(need.gib for need in needs):.1f}", f"{sum(need.cores for need in needs):.1f}", style="bold"
    )
    console.print(table, "[dim]Estimates. With fewer cores than in the sum, it is slower under full load.[/]")


def print_prices(console: Console, prices: Mapping[str, StageFlops]) -> None:
    """Print the compute and the time of one item in each stage."""
    table = Table("stage", title="One item alone", box=None, pad_edge=False)
    for column in ("photo, GFLOP", "ms", "clip, GFLOP", "ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for stage, price in prices.items():
        gflop = [None if flop is None else flop / 1e9 for flop in (price.photo, price.clip)]
        cells = (gflop[0], price.photo_ms, gflop[1], price.clip_ms)
        table.add_row(stage, *("" if cell is None else f"{cell:,.4g}" for cell in cells))
    console.print(
        table, "[dim]Times are estimates for an RTX 4090 or a CPU core: profiles/flops.yaml has the sources.[/]"
    )


def print_report(console: Console, report: EvaluationReport) -> None:
    """Print an evaluation without its single items."""
    console.print(
        f"\n[bold]{report.n_stills} stills and {report.n_clips} clips[/], profile {foreign(report.profile)}, "
        f"policy {foreign(report.policy_version)}, {_number(report.elapsed_s, '.0f')} s"
    )
    if report.seen_in_training:
        console.print(
            f"[yellow]{report.seen_in_training} other items were seen in training; they are in no figure but those "
            "marked so.[/]"
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
    if report.sources is not None:
        _print_sources(console, report.sources)
    if report.subnet_score is not None:
        _print_subnet_score(console, report.subnet_score)
    if report.degraded:
        console.print(f"[yellow]{report.degraded} verdicts are degraded: a stage that was needed failed.[/]")
    for failure in report.failed:
        console.print(f"[red]{foreign(failure.name)} got no verdict:[/] {foreign(failure.message)}")
    models = ", ".join(f"{stage}: {model}" for stage, model in report.models.items())
    console.print(f"[dim]Models: {foreign(models)}[/]")


def _print_subnet_score(console: Console, score: SubnetScore) -> None:
    table = Table("\naugmentation", "\nn", "\naccuracy", "\nMCC", "\nreward", box=None, pad_edge=False)
    for augmentation, part in score.by_augmentation.items():
        table.add_row(augmentation, str(part.n), *(_number(value) for value in (part.accuracy, part.mcc, part.reward)))
    console.print(table)
    console.print(
        f"Subnet 72 would have paid {_number(score.reward)} on average, at most 1; a validator would keep a score of "
        f"{_number(score.score)} after these {score.challenges}."
    )


def _print_exits(console: Console, report: EvaluationReport) -> None:
    for what, mix, parts in (
        ("stills", report.exit_mix, report.by_needs),
        ("clips", report.exit_mix_clips, report.by_needs_clips),
    ):
        if mix:
            heading = f"{what} by the cheapest sufficient stage" if parts else what
            table = Table(f"\n{heading}", "\nn", "\naccuracy", *_heads(mix), box=None, pad_edge=False)
            for needs, part in parts.items():
                table.add_row(needs, str(part.n), _number(part.accuracy), *_shares(part, mix))
            table.add_row("all", "", "", *(f"{share:.1%}" for share in mix.values()))
            console.print(table)


def _heads(mix: Mapping[str, float]) -> Iterable[str]:
    return [("exit at\n" if index == 0 else "\n") + stage for index, stage in enumerate(mix)]


def _shares(part: Subset, mix: Mapping[str, float]) -> Iterable[str]:
    return [f"{part.exit_mix.get(stage, 0):.1%}" for stage in mix]


def _print_sources(console: Console, report: SourceReport) -> None:
    console.print(f"\n[yellow]{report.caveat}[/]")
    pairs = [(part.overall, part.macro) for part in (report.photos.stage1, report.photos.cascade)]
    table = Table("stills", "stage 1", "cascade", box=None, pad_edge=False)
    for name, values in {
        "accuracy": [whole.accuracy for whole, _ in pairs],
        f"  mean over {pairs[0][1].sources} sources": [macro.accuracy for _, macro in pairs],
        "balanced accuracy": [whole.balanced_accuracy for whole, _ in pairs],
        "AUC": [whole.auc for whole, _ in pairs],
        "MCC": [whole.mcc for whole, _ in pairs],
        "ECE (15 bins)": [whole.ece for whole, _ in pairs],
        f"balanced accuracy, mean over {pairs[0][1].two_class_sources} sources with both classes": [
            macro.balanced_accuracy for _, macro in pairs
        ],
        "AUC, mean over the same": [macro.auc for _, macro in pairs],
        f"share of {pairs[0][0].hard_negatives} hard negatives classified as roadwork": [
            whole.hard_false_positives for whole, _ in pairs
        ],
        f"share of {pairs[0][0].n - pairs[0][0].positives - pairs[0][0].hard_negatives} other negatives": [
            whole.plain_false_positives for whole, _ in pairs
        ],
    }.items():
        table.add_row(name, *(_number(value) for value in values))
    table.add_row("answers above 0.9 or below 0.1", *(str(whole.confident) for whole, _ in pairs))
    table.add_row("  share of them that is wrong", *(_number(whole.confident_errors) for whole, _ in pairs))
    console.print(table, "")
    _print_by_source(console, "source", report.photos)
    if report.seen_in_training is not None:
        console.print("[yellow]Seen in training, and in no other figure:[/]")
        _print_by_source(console, "source seen in training", report.seen_in_training)
    false = report.photos.hard_negative_false_positives
    hard = report.photos.cascade.overall.hard_negatives
    console.print(f"Hard negatives classified as roadwork: {len(false)} of {hard}", *map(foreign, false))
    for clip in report.clips:
        if clip.label is not None and clip.label != clip.predicted_label:
            answer = f"{_label(clip.predicted_label)} at {clip.probability:.3f}, exit {clip.exit_stage}"
            console.print(f"Clip with the wrong label: {foreign(clip.name)} ({answer})")


def _print_by_source(console: Console, title: str, photos: StageComparison) -> None:
    heads = ("n", "roadwork", "accuracy:\nstage 1", "\ncascade", "confident, wrong:\nstage 1", "\ncascade")
    table = Table(box=None, pad_edge=False)
    table.add_column(title, overflow="fold")
    for head in heads:
        table.add_column(head)
    for name, cascade in photos.cascade.by_source.items():
        stage1 = photos.stage1.by_source[name]
        wrong = (round(part.confident * part.confident_errors) if part.confident else 0 for part in (stage1, cascade))
        accuracies = (_number(part.accuracy, ".3f") for part in (stage1, cascade))
        table.add_row(foreign(name), str(cascade.n), str(cascade.positives), *accuracies, *map(str, wrong))
    console.print(table, "")


def _evidence(verdict: Verdict) -> str:
    """Return the text that has a meaning for road work, and the reasoning of the models."""
    texts = [line.text for stage in verdict.stages for line in stage.evidence.text_lines if line.meaning]
    reasoning = [stage.evidence.reasoning for stage in verdict.stages if stage.evidence.reasoning]
    return " / ".join([f'"{text}"' for text in texts] + reasoning)


def _label(roadwork: bool) -> str:
    return "roadwork" if roadwork else "none"


def _counts(c: Confusion) -> str:
    return f"TP {c.tp} FP {c.fp} FN {c.fn} TN {c.tn}" if c.n else ""


def _number(value: float, form: str = ".4f") -> str:
    return "" if math.isnan(value) else format(value, form)
