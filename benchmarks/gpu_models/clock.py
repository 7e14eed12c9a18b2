"""How long a call takes and how much it computes."""

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
    """plain: the same in eager mode, for counting, where `call` does not run PyTorch's operators one by one."""

    case: Case
    call: Call
    plain: Call | None = None


def measured(job: Job, machine: Machine, effort: Effort, peak: Peak, run: int) -> Row:
    """Time and count the job."""
    machine.forget_memory()
    with torch.inference_mode():
        timing = timed(job.call, machine, effort)
        memory = machine.memory_gib()
        flop = counted(job.plain or job.call) / job.case.batch
    per_s = job.case.batch / timing.median_ms * 1000
    tflops = per_s * flop / 1e12
    return Row(job.case, timing, per_s, flop / 1e9, tflops, tflops / peak.tflops, memory, run)


def timed(call: Call, machine: Machine, effort: Effort) -> Timing:
    """Call again and again, waiting for the card after each call, as a server does that needs the answer."""
    first_s = _once(call, machine)
    for _ in range(effort.warm):
        _once(call, machine)
    seconds: list[float] = []
    while len(seconds) < effort.least or (len(seconds) < effort.most and sum(seconds) < effort.budget_s):
        seconds.append(_once(call, machine))
    return Timing(first_s, len(seconds), 1000 * statistics.median(seconds), 1000 * p90(seconds))


def p90(values: list[float]) -> float:
    """Return the smallest value that nine in ten do not pass."""
    return sorted(values)[math.ceil(len(values) * 9 / 10) - 1]


def counted(call: Call) -> float:
    """FLOPs of matrix products, convolutions and attention, a multiply-add counted as 2; attention in full."""
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
    """PyTorch's own formula leaves out the CPU's kernel; in older versions it refuses heads that share a key."""
    n, heads, rows, width = query
    return 2 * n * heads * rows * key[2] * (width + value[3])


def _once(call: Call, machine: Machine) -> float:
    machine.wait()
    began = time.perf_counter()
    call()
    machine.wait()
    return time.perf_counter() - began
