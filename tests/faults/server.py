"""A process that imports once, then forks a child for each run that something is done to.

    python server.py MODEL TREE

One JSON object a line on stdin says what to do, one a line on stdout what came of it:

    {"folder": F}                           tune into F, or go on with the run in F
    {..., "settings": {...}}                of the configuration, where a run begins
    {..., "kill_after": 0.3}                SIGKILL after so many seconds, wherever it then is
    {..., "kill_training": 0.3}             the same, counted from where the training begins
    {..., "kill_call": 7}                   SIGKILL at the 7th call of a save that changes the disk
    {..., "kill_step": 7}                   SIGKILL as the save of step 7 begins
    {..., "fail_call": 7, "errno": 5}       the 7th such call of the whole run fails
    -> {"code": 0, "signal": 0, "calls": 41, "in_save": false, "training": 0.8, "error": ""}

A *call* is mkdir, open for writing, write, fsync or rename below the run's folder. A write that is
to fail, or to be killed in, writes half of its bytes first. "training" is its seconds.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import select
import signal
import struct
import sys
import time
from pathlib import Path

import torch

import repotune.durable
import repotune.training.saver as saver
from repotune import FineTuningConfig, resume, tune
from repotune import pipeline as _pipeline  # noqa: F401 - imported before the forks
from repotune.errors import RepotuneError
from repotune.stages import tuning

STEPS = 12


def config(model: str, folder: Path, changes: dict) -> FineTuningConfig:
    usual = {
        "max_seq_length": 64, "batch_size": 2, "gradient_accumulation_steps": 2,
        "max_steps": STEPS, "save_steps": 1, "eval_steps": 3, "learning_rate": 1e-2, "lora_r": 4,
        "lora_dropout": 0.1, "precision": "fp32", "evaluate": False,
        "early_stopping_patience": 0, "warmup_ratio": 0.2, "deterministic": True,
    }  # fmt: skip
    return FineTuningConfig(model=model, output_dir=folder, **{**usual, **changes})


class Clock:
    """When the training began and ended, told to the parent."""

    BEGAN, ENDED = slice(8, 16), slice(16, 24)

    def __init__(self, shared: mmap.mmap) -> None:
        self.shared = shared

    def watch(self) -> None:
        """In the child."""
        real = tuning.train

        def train(*args, **options):
            self.shared[self.BEGAN] = struct.pack("<d", time.monotonic())
            try:
                return real(*args, **options)
            finally:
                self.shared[self.ENDED] = struct.pack("<d", time.monotonic())

        tuning.train = train

    def began(self) -> float:
        return struct.unpack("<d", self.shared[self.BEGAN])[0]

    def seconds(self) -> float:
        return struct.unpack("<d", self.shared[self.ENDED])[0] - self.began()


class Calls:
    """Counts what a process asks of the disk, and lets one call fail or be the process's last."""

    def __init__(self, folder: Path, shared: mmap.mmap, job: dict) -> None:
        self.folder, self.shared, self.count = str(folder), shared, 0
        self.in_save = False
        self.kill_call, self.fail_call = job.get("kill_call", 0), job.get("fail_call", 0)
        self.number = job.get("errno", errno.EIO)
        real_open, real_fsync = Path.open, os.fsync

        def opened(path, mode="r", *args, **options):
            if mode[0] not in "wa" or not self.concerns(path):
                return real_open(path, mode, *args, **options)
            self.tick()
            return File(real_open(path, mode, *args, **options), self)

        def fsync(descriptor):
            self.tick()
            return real_fsync(descriptor)

        Path.open, os.fsync = opened, fsync
        for name in ("mkdir", "replace", "rename"):
            setattr(Path, name, self.wrapped(getattr(Path, name)))
        real_save = saver.save

        def save(folder, reached):
            self.mark(in_save=True)
            if reached.step == job.get("kill_step"):
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real_save(folder, reached)
            finally:
                self.mark(in_save=False)

        saver.save = save

    def concerns(self, path) -> bool:
        return str(path).startswith(self.folder)

    def wrapped(self, function):
        def call(path, *args, **options):
            if self.concerns(path):
                self.tick()
            return function(path, *args, **options)

        return call

    def mark(self, *, in_save: bool) -> None:
        self.in_save = in_save
        self.shared[4:5] = b"1" if in_save else b"0"

    def tick(self, half=None) -> None:
        if self.kill_call and not self.in_save:
            return
        self.count += 1
        self.shared[:4] = struct.pack("<I", self.count)
        if self.count == self.kill_call:
            if half:
                half()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.count == self.fail_call:
            if half:
                half()
            raise OSError(self.number, os.strerror(self.number))


class File:
    """A file whose writes are counted."""

    def __init__(self, file, calls):
        self._file, self._calls = file, calls

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        def half():
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._calls.tick(half)
        return self._file.write(data)


def work(job: dict, model: str, tree: str, shared: mmap.mmap) -> str:
    folder = Path(job["folder"])
    torch.set_num_threads(1)
    # A full disk is looked at again at once.
    repotune.durable.PAUSE_SECONDS = 0.0
    Calls(folder, shared, job)
    Clock(shared).watch()
    try:
        if (folder / "run.json").exists():
            resume(folder)
        else:
            tune(tree, config(model, folder, job.get("settings", {})))
    except RepotuneError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def child_of(job: dict, model: str, tree: str) -> dict:
    shared = mmap.mmap(-1, 24)
    clock = Clock(shared)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        code = 3
        try:
            error = work(job, model, tree, shared)
            os.write(write, error.encode()[:4000])
            code = 1 if error else 0
        except BaseException as error:
            import traceback

            os.write(write, "".join(traceback.format_exception(error)).encode()[-4000:])
        finally:
            os._exit(code)
    os.close(write)
    if "kill_training" in job:
        while not clock.began() and not select.select([read], [], [], 0.005)[0]:
            pass
    after = job.get("kill_after", job.get("kill_training"))
    if after is not None:
        select.select([read], [], [], after)
        os.kill(pid, signal.SIGKILL)
    error = b""
    while part := os.read(read, 4096):
        error += part
    os.close(read)
    _, status = os.waitpid(pid, 0)
    return {
        "code": os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else -1,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "calls": struct.unpack("<I", shared[:4])[0],
        "in_save": shared[4:5] == b"1",
        "training": clock.seconds(),
        "error": error.decode(errors="replace"),
    }


if __name__ == "__main__":
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # for runs on a GPU that are deterministic
    for line in sys.stdin:
        sys.stdout.write(json.dumps(child_of(json.loads(line), *sys.argv[1:3])) + "\n")
        sys.stdout.flush()
