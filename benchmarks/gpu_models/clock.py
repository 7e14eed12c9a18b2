"""Measures the duration and the compute of a call."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_models.machine import Machine
from benchmarks.gpu_models.plan import Effort
from benchmarks.gpu_models.results import Case, Peak, Row, Timing

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Job:
    """A call to measure."""

    case: Case
    call: Call
    #: The same in eager mode, for counting FLOPs, if `call` does not run PyTorch's operators one by one.
    plain: Call | None = None


def measure(job: Job, machine: Machine, effort: Effort, peak: Peak, run: int) -> Row:
    """Time the job and count its FLOPs."""
    machine.reset_memory()
    with torch.inference_mode():
        timing = time_call(job.call, machine, effort)
        memory = machine.memory_gib()
        flop = count_flops(job.plain or job.call) / job.case.batch
    per_s = job.case.batch / timing.median_ms * 1000
    tflops = per_s * flop / 1e12
    return Row(job.case, timing, per_s, flop / 1e9, tflops, tflops / peak.tflops, memory, run)


def time_call(call: Call, machine: Machine, effort: Effort) -> Timing:
    """Time repeated calls, waiting for the GPU after each, as a server does that needs the result."""
    first_s = _once(call, machine)
    for _ in range(effort.warmup):
        _once(call, machine)
    seconds: list[float] = []
    while len(seconds) < effort.min_calls or (len(seconds) < effort.max_calls and sum(seconds) < effort.budget_s):
        seconds.append(_once(call, machine))
    return Timing(first_s, len(seconds), 1000 * statistics.median(seconds), 1000 * p90(seconds))


def p90(values: list[float]) -> float:
    """Return the nearest-rank 90th percentile."""
    return sorted(values)[math.ceil(len(values) * 9 / 10) - 1]


def count_flops(call: Call) -> float:
    """Return the FLOPs of matrix products, convolutions and attention, with 2 per multiply-add; attention in full."""
    aten = torch.ops.aten
    attention = (
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_efficient_attention,
        aten._scaled_dot_product_cudnn_attention,
        aten._scaled_dot_product_flash_attention_for_cpu,
    )
    with FlopCounterMode(display=False, custom_mapping=dict.fromkeys(attention, _attention)) as counter:
        call()
    return float(counter.get_total_flops())


def _attention(query: list[int], key: list[int], value: list[int], *_: object, **__: object) -> int:
    """Return the FLOPs of attention. PyTorch's formula lacks the CPU kernel; older versions reject grouped heads."""
    n, heads, rows, width = query
    return 2 * n * heads * rows * key[2] * (width + value[3])


def _once(call: Call, machine: Machine) -> float:
    machine.wait()
    began = time.perf_counter()
    call()
    machine.wait()
    return time.perf_counter() - began
