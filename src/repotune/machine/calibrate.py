"""The probe: how fast this machine multiplies, copies and launches, measured in seconds.

Rates are sustained ones, after a warm-up: a GPU under load lowers its clock within a second.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from repotune.events import Emit, Notice, ignore
from repotune.machine.driver import ask_driver
from repotune.machine.identity import identify
from repotune.machine.probe import bf16_pays_off
from repotune.machine.store import read_rates, write_rates
from repotune.records import Calibration, MachineRates

if TYPE_CHECKING:
    import torch

Device: TypeAlias = Literal["cpu", "cuda"]
Taken: TypeAlias = dict[str, int]
"""uuid of a GPU -> bytes that are taken on it."""

GPU_SHAPES: Final = ((4096, 4096, 12288), (4096, 4096, 22016), (4096, 11008, 4096))
"""Rows, inner, columns: q/k/v, gate/up and down of CodeLlama 7B at 4,096 tokens."""
CPU_SHAPES: Final = ((512, 576, 960), (512, 576, 3072), (512, 1536, 576))
"""The same three of the starter model at 512 tokens."""
MATMUL_SECONDS: Final = {"cpu": 0.5, "cuda": 1.2}
"""For each shape and precision, so 3 s on a CPU and 11 s on a GPU in all."""
COPY_BYTES: Final = {"cpu": 2**27, "cuda": 2**28}
"""More than any cache holds."""
COPY_SECONDS: Final = 0.5
PROBE_BYTES: Final = 2**30
"""More than the probe takes of a GPU."""
TAKES: Final = {"cpu": "which takes about 5 s", "cuda": "which takes about 15 s"}
WARM_UP: Final = 0.25
"""Share of the time that is not counted."""
LAUNCHES: Final = 2000
LAUNCH_ROWS: Final = 9


def calibrate(device: Device, *, taken_before: Taken | None = None) -> MachineRates:
    """Measure ``device``: about 5 s on a CPU, 15 s on a GPU. Imports torch.

    Takes about 1 GiB of the device's memory for that time. ``taken_before`` is what was taken on
    each GPU before this process made its context; None: it is asked for, if there is none yet.
    """
    import torch

    start = time.perf_counter()
    if taken_before is None:
        taken_before = _taken_by_others(device)
    identity = identify(device)
    with torch.no_grad():
        flops = {name: _matmul_rate(device, dtype) for name, dtype in _precisions(device).items()}
        bandwidth = 2 * _copy_rate(device, device)
        to_device = _copy_rate("cpu", device) if device == "cuda" else None
        launch = _launch_seconds(device)
    context = _context_bytes(taken_before) if device == "cuda" else 0
    if device == "cuda":
        torch.cuda.empty_cache()
    return MachineRates(
        machine_id=identity.machine_id,
        device=device,
        name=identity.name,
        driver=identity.driver,
        torch=torch.__version__,
        matmul_flops_per_second=flops,
        memory_bytes_per_second=bandwidth,
        host_to_device_bytes_per_second=to_device,
        launch_seconds=launch,
        context_bytes=context,
        probe_seconds=time.perf_counter() - start,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def ensure_rates(device: Device, *, emit: Emit = ignore) -> MachineRates | None:
    """What was measured on this machine before, else measured now and kept.

    None for a GPU whose memory is so full that a run would not fit either. Imports torch.
    """
    import torch

    taken_before = _taken_by_others(device)
    rates = read_rates(identify(device).machine_id, emit=emit)
    if rates is not None:
        return rates
    if device == "cuda" and torch.cuda.mem_get_info(0)[0] < PROBE_BYTES:
        return None
    emit(Notice(message=f"The speed of this machine is measured once, {TAKES[device]}."))
    rates = calibrate(device, taken_before=taken_before)
    write_rates(rates, emit=emit)
    return rates


def for_precision(rates: MachineRates, precision: str) -> Calibration | None:
    """What a plan in ``precision`` uses of the rates, None if that was not measured here."""
    flops = rates.matmul_flops_per_second.get(precision)
    if flops is None:
        return None
    return Calibration(
        device=rates.name,
        matmul_flops=flops,
        bandwidth=rates.memory_bytes_per_second,
        host_to_device=rates.host_to_device_bytes_per_second,
        launch_seconds=rates.launch_seconds,
        context_bytes=rates.context_bytes,
        date=rates.date,
    )


def read_calibration(device: Device, precision: str, *, emit: Emit = ignore) -> Calibration | None:
    """What was measured on this machine before, None if nothing was. Imports torch."""
    rates = read_rates(identify(device).machine_id, emit=emit)
    return for_precision(rates, precision) if rates else None


def _precisions(device: Device) -> dict[str, torch.dtype]:
    """Those that a run on ``device`` may compute in: emulated bf16 is none."""
    import torch

    if device == "cpu":
        bf16 = {"bf16": torch.bfloat16} if bf16_pays_off() else {}
        return {**bf16, "fp32": torch.float32}
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    bf16 = {"bf16": torch.bfloat16} if has_bf16 else {}
    return {**bf16, "fp16": torch.float16, "fp32": torch.float32}


def _matmul_rate(device: Device, dtype: torch.dtype) -> float:
    """FLOP a second over the engine's shapes, each weighted by its own work."""
    import torch

    work = seconds = 0.0
    for rows, inner, columns in GPU_SHAPES if device == "cuda" else CPU_SHAPES:
        left = torch.randn(rows, inner, device=device, dtype=dtype)
        weight = torch.randn(columns, inner, device=device, dtype=dtype)
        out = torch.empty(rows, columns, device=device, dtype=dtype)

        def multiply(
            left: torch.Tensor = left, weight: torch.Tensor = weight, out: torch.Tensor = out
        ) -> None:
            torch.mm(left, weight.t(), out=out)

        work += 2.0 * rows * inner * columns
        seconds += _seconds_each(multiply, device, MATMUL_SECONDS[device])
    return work / seconds


def _copy_rate(source: Device, target: Device) -> float:
    """Bytes copied a second; from the host to a GPU they come from pinned memory."""
    import torch

    count = COPY_BYTES[target]
    pinned = source != target
    left = torch.ones(count, dtype=torch.uint8, device=source, pin_memory=pinned)
    right = torch.empty(count, dtype=torch.uint8, device=target)
    return count / _seconds_each(lambda: right.copy_(left, non_blocking=True), target, COPY_SECONDS)


def _launch_seconds(device: Device) -> float:
    """Of one operation on a single number, in a row of many; the median of some rows, since a
    host that does something else meanwhile doubles one."""
    import torch

    one = torch.zeros(1, device=device)

    def add_many() -> None:
        for _ in range(LAUNCHES):
            one.add_(1)

    add_many()
    seconds = []
    for _ in range(LAUNCH_ROWS):
        _finish(device)
        start = time.perf_counter()
        add_many()
        _finish(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) / LAUNCHES


def _seconds_each(action: Callable[[], object], device: Device, budget_seconds: float) -> float:
    """Mean seconds of ``action``, repeated for about ``budget_seconds``; the first part warms up.

    Repeats are queued in rounds, so that a GPU is never waited for between two of them.
    """
    action()
    _finish(device)
    repeats, warm_until = 1, time.perf_counter() + WARM_UP * budget_seconds
    while True:  # rounds of growing length, until one lasts a tenth of the budget
        seconds = _round_seconds(action, device, repeats)
        if time.perf_counter() >= warm_until and seconds >= budget_seconds / 10:
            break
        repeats = max(repeats + 1, round(repeats * min(4.0, budget_seconds / 8 / seconds)))
    rounds = max(1, round((1 - WARM_UP) * budget_seconds / seconds))
    return sum(_round_seconds(action, device, repeats) for _ in range(rounds)) / rounds / repeats


def _round_seconds(action: Callable[[], object], device: Device, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        action()
    _finish(device)
    return time.perf_counter() - start


def _finish(device: Device) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _taken_by_others(device: Device) -> Taken:
    """Before this process makes its context; nothing if it has made it."""
    import torch

    if device == "cpu" or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return {}
    return _taken_by_gpu()


def _taken_by_gpu() -> Taken:
    driver = ask_driver()
    return {gpu.uuid: gpu.memory_bytes - gpu.free_bytes for gpu in driver.gpus} if driver else {}


def _context_bytes(taken_before: Taken) -> int:
    """What this process takes on the GPU beside the allocator's memory.

    ``taken_before`` is what others took before; a GPU that is not in it is taken for empty then.
    """
    import torch

    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    free, total = torch.cuda.mem_get_info(0)
    now = _taken_by_gpu().get(uuid, total - free)
    return max(0, now - taken_before.get(uuid, 0) - torch.cuda.memory_reserved(0))
