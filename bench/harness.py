"""Compares ways to compute one thing, side by side in one process.

A Case has providers: functions that do one training step's worth of an op (forward and backward). Every round
runs them all, one after the other, so that a machine that slows down slows all of them; kdfast itself is what
pytest-benchmark times, the others are timed in each round's setup. What counts is the median over ROUNDS
rounds of the ratio within a round, of the best of RUNS runs; both are fewer where they would take longer than
PATIENCE seconds. Every provider is timed as in its own training loop: what the one before it left in the heap
goes back to the system first, a few steps that are not timed follow, and a step of less than SHORT seconds is
repeated until it has taken that long. Before anything is timed, every provider's gradient is compared with
float64: a wrong one is shown as wrong.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import kdfast

ROUNDS, RUNS = 15, 3
FEWEST = 5  # rounds
PATIENCE = 30.0
SHORT = 2e-3
SETTLED = 20e-3  # seconds of steps before the timed ones; at least one, at most SETTLING
SETTLING = 3
WRONG = 0.05
RECORDS: list[dict[str, Any]] = []


@dataclass
class Provider:
    """A way to do it: `step` runs once; `gradient` (of the same rounded inputs, small) is for the error."""

    name: str
    step: Callable[[], Any]
    gradient: Callable[[], Tensor] | None = None


@dataclass
class Case:
    """One row of the table. minimum_bytes: each input read once, each output written once."""

    op: str
    name: str
    providers: list[Provider]
    minimum_bytes: int
    truth: Tensor | None = None  # the gradient in float64
    flops: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


def synchronize() -> None:
    if device() == "cuda":
        torch.cuda.synchronize()


def seconds(step: Callable[[], Any], repeats: int = 1) -> float:
    """Of one step, the mean of `repeats` in a row."""
    synchronize()
    begin = time.perf_counter()
    for _ in range(repeats):
        step()
    synchronize()
    return (time.perf_counter() - begin) / repeats


# glibc's. Free heap goes back at a later call of free, which would be in another provider's time.
_give_back = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)


def settle(step: Callable[[], Any], number: int) -> None:
    """A few steps, after which memory and caches are as in a loop that has been running for a while."""
    _give_back(0)
    begin = time.perf_counter()
    for _ in range(SETTLING * number):
        step()
        synchronize()
        if time.perf_counter() - begin > SETTLED:
            break


def step_seconds(step: Callable[[], Any]) -> float:
    """Of one step: the best of three, or the first where it is long."""
    first = seconds(step)
    return first if first > 100 * SHORT else min(first, seconds(step), seconds(step))


def plan(one_round: float) -> tuple[int, int]:
    """How many rounds, and how many runs of them, PATIENCE allows where a round takes so many seconds."""
    runs = max(1, min(RUNS, int(PATIENCE / (ROUNDS * one_round))))
    return max(FEWEST, min(ROUNDS, int(PATIENCE / (runs * one_round)))), runs


def relative_error(gradient: Tensor, truth: Tensor) -> float:
    """L2, against float64."""
    return float((gradient.detach().cpu().double() - truth.cpu()).norm() / truth.cpu().norm())


def peak_bytes(step: Callable[[], Any]) -> int:
    """The most memory that tensors held at once during a step, beyond what was held before."""
    gc.collect()
    if device() == "cuda":
        synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        synchronize()
        return torch.cuda.max_memory_allocated() - before
    limit = kdfast.memory.set_cache_limit(0)  # the profiler sees torch's own allocations only
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    kdfast.memory.set_cache_limit(limit)
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def copy_bandwidth(bytes_moved: int) -> float:
    """Bytes per second of a copy that moves as many bytes (read plus written), into memory that is warm."""
    elements = max(bytes_moved // 8, 1024)
    source, target = torch.ones(elements, device=device()), torch.empty(elements, device=device())
    target.copy_(source)
    number = max(1, int(2e8 / (elements * 8)))
    return 8 * elements / min(seconds(lambda: target.copy_(source), number) for _ in range(7))


def _usable(provider: Provider, truth: Tensor | None) -> tuple[bool, dict[str, Any]]:
    """Runs a provider once: what is wrong with it, or its error and memory."""
    try:
        provider.step()
        facts: dict[str, Any] = {"peak_bytes": peak_bytes(provider.step)}
        if provider.gradient is not None and truth is not None:
            facts["error"] = relative_error(provider.gradient(), truth)
    except Exception as error:  # a peer that cannot run is a row of the table
        return False, {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
    if facts.get("error", 0) > WRONG or facts.get("error") != facts.get("error"):
        facts["wrong"] = True
    return True, facts


def _run(
    benchmark: Any, ours: Provider, others: list[Provider], number: dict[str, int], rounds: int
) -> dict[str, list[float]]:
    """Interleaved rounds; number: how many steps of a provider are one measurement."""
    times: dict[str, list[float]] = {p.name: [] for p in (ours, *others)}

    def setup() -> None:
        for other in others:
            settle(other.step, number[other.name])
            times[other.name].append(seconds(other.step, number[other.name]))
        settle(ours.step, number[ours.name])

    def step() -> None:
        times[ours.name].append(seconds(ours.step, number[ours.name]))

    if benchmark is None:
        for _ in range(rounds):
            setup()
            step()
    else:
        benchmark.pedantic(step, setup=setup, rounds=rounds, iterations=1, warmup_rounds=0)
    return times


def compare(case: Case, benchmark: Any = None) -> dict[str, Any]:
    """Checks and times a case; the first provider is kdfast. Adds a record to RECORDS and returns it."""
    facts = {p.name: _usable(p, case.truth) for p in case.providers}
    usable = [p for p in case.providers if facts[p.name][0]]
    ours, others = usable[0], usable[1:]
    assert ours is case.providers[0], facts[case.providers[0].name][1]
    takes = {provider.name: step_seconds(provider.step) for provider in usable}
    number = {name: max(1, int(SHORT / one)) for name, one in takes.items()}
    rounds, times = plan(2 * sum(max(SHORT, one) for one in takes.values()))  # to settle, to be timed
    runs = [_run(benchmark if i == 0 else None, ours, others, number, rounds) for i in range(times)]
    best = min(runs, key=lambda times: statistics.median(times[ours.name]))
    rate = case.minimum_bytes / statistics.median(best[ours.name])
    ceiling = copy_bandwidth(case.minimum_bytes)
    record = {
        "op": case.op,
        "case": case.name,
        "device": device(),
        "rounds": rounds,
        "runs": times,
        "minimum_bytes": case.minimum_bytes,
        "bytes_per_second": rate,
        "copy_bytes_per_second": ceiling,
        "fraction_of_copy": rate / ceiling,
        "providers": {p.name: facts[p.name][1] | _times(best, ours.name, p.name) for p in case.providers},
        **({"flop_per_second": case.flops / statistics.median(best[ours.name])} if case.flops else {}),
        **case.extra,
    }
    RECORDS.append(record)
    if benchmark is not None:
        benchmark.extra_info.update({k: v for k, v in record.items() if k != "providers"})
    return record


def _times(best: dict[str, list[float]], ours: str, name: str) -> dict[str, float]:
    if name not in best:
        return {}
    ordered = sorted(best[name])
    ratios = [theirs / mine for theirs, mine in zip(best[name], best[ours], strict=True)]
    return {
        "median": statistics.median(ordered),
        "p20": ordered[len(ordered) // 5],
        "p80": ordered[-1 - len(ordered) // 5],
        "ratio": statistics.median(ratios),
    }


# ---- Providers that many ops share
# -----------------------------------------------------------------------------------


class _Floor(torch.autograd.Function):
    """No mathematics: the gradient's memory written once from the inputs read once."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        ctx.grad = torch.sub(student.detach(), teacher)
        return torch.zeros((), device=student.device)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        grad, ctx.grad = ctx.grad, None
        return grad, None


def floor(student: Tensor, teacher: Tensor) -> Tensor:
    """The least an op of this shape can do in PyTorch: one torch.sub into a fresh gradient."""
    return _Floor.apply(student, teacher)


def training_step(loss: Callable[..., Tensor], leaf: Tensor, *others: Any) -> Callable[[], None]:
    """One forward and backward into a leaf; who allocated the gradient pays for letting go of it."""

    def step() -> None:
        loss(leaf, *others).backward()
        leaf.grad = None

    return step


def gradient_of(loss: Callable[..., Tensor], values: Tensor, *others: Any) -> Callable[[], Tensor]:
    """The gradient of `loss` with respect to its first argument."""

    def gradient() -> Tensor:
        leaf = values.detach().clone().requires_grad_()
        return torch.autograd.grad(loss(leaf, *others), leaf)[0]

    return gradient


def device() -> str:
    """Where benchmarks run: KDFAST_BENCH_DEVICE, or the GPU if there is one."""
    return os.environ.get("KDFAST_BENCH_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
