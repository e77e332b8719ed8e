"""What a process tells its GPU before it is used; and the most memory that it took."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from repotune.errors import UsageError
from repotune.machine.probe import resident, resident_peak

CLEAR_REFS: Final = Path("/proc/self/clear_refs")
CUBLAS: Final = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_SETTING: Final = ":4096:8"
"""Of the two that make cuBLAS deterministic (its manual, 2.1.4), the one that is not slower."""
RESET_PEAK: Final = "5"
"""proc(5): sets the peak of the resident set to what is resident now."""


def prepare_gpu() -> None:
    """Let PyTorch grow its blocks of GPU memory in place, before the first of them is taken.

    Blocks of fixed sizes leave gaps that no later tensor fits. Not under Windows, which lacks it,
    nor WSL, whose driver refuses such memory on some cards (PyTorch's issue 192330).
    """
    import torch

    if not sys.platform.startswith("linux") or "microsoft" in platform.release().lower():
        return
    if not torch.cuda.is_available():
        return
    try:
        # There is no public call; the environment's variable is the user's.
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    except AttributeError:  # a later PyTorch, whose default has to do
        return


@contextmanager
def deterministic_gpu(wanted: bool) -> Iterator[None]:
    """Let PyTorch take only operations that give the same bits each time, where it has a GPU.

    On a CPU ours do, whatever PyTorch is told. Raises UsageError where cuBLAS was not told: its
    only switch is a variable of the environment, which the command line sets.
    """
    import torch

    if not wanted or not torch.cuda.is_available():
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        _refuse_a_cublas_that_varies()
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _refuse_a_cublas_that_varies() -> None:
    import torch

    one = torch.ones(1, 1, device="cuda")
    try:
        torch.mm(one, one)
    except RuntimeError as error:
        if CUBLAS not in str(error):
            raise
        raise UsageError(
            f"deterministic = true needs {CUBLAS}={CUBLAS_SETTING} in the environment before the "
            "process uses the GPU: set it there, or tune by the command line, which does so."
        ) from None


def cap_gpu() -> None:
    """Allow this process as much GPU memory as is free now, beside what it has.

    Windows' driver goes on in the host's memory, many times slower, where a run that is too large
    should stop. Makes the CUDA context.
    """
    import torch

    free, total = torch.cuda.mem_get_info(0)
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, (free + torch.cuda.memory_reserved(0)) / total), 0
    )


def gpu_bytes() -> int:
    """The GPU's memory in all, as CUDA shows it."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def gpu_room() -> int:
    """What this process can have of the GPU's memory now, with what it has already, in bytes."""
    import torch

    return int(torch.cuda.mem_get_info(0)[0] + torch.cuda.memory_reserved(0))


class Peak:
    """The most that this process takes from now on: reserved on a GPU, resident on a CPU.

    One at a time: the system's own figure is begun anew by each.
    """

    def __init__(self, device: Literal["cpu", "cuda"]) -> None:
        import torch

        self._device = device
        if device == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]  # before it there is no peak
            torch.cuda.empty_cache()
        self._most = 0
        self._can_reset = self._reset()
        self._before = -1 if self._can_reset else resident_peak()

    def bytes(self) -> int | None:
        """So far; None where an earlier peak of this process hides it."""
        peak = max(self._most, self._peak())
        return peak if peak > self._before else None

    def since_last(self) -> int:
        """Since this was last asked, or made; no GPU is waited for, and it takes microseconds.

        Where a processor's peak cannot be begun anew, what is resident now.
        """
        if not self._can_reset:
            return resident()
        peak = self._peak()
        self._most = max(self._most, peak)
        self._reset()
        return peak

    def _peak(self) -> int:
        import torch

        return torch.cuda.max_memory_reserved(0) if self._device == "cuda" else resident_peak()

    def _reset(self) -> bool:
        """Whether the system's figure begins anew; otherwise it is of the process's whole life."""
        import torch

        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats(0)
            return True
        try:
            CLEAR_REFS.write_text(RESET_PEAK, encoding="ascii")
        except OSError:  # not Linux, or forbidden
            return False
        return True
