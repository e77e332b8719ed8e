"""Is a run whole, does its adapter still do what it did, and what can be saved if not.

The verb behind ``repotune verify``. It changes nothing in the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from repotune.errors import RepotuneError, RunError
from repotune.events import Emit, ignore
from repotune.records import RunFinding, Verification
from repotune.runs import RunFolder, RunState, find_run, sha256_of

SAME_MACHINE, OTHER_MACHINE = 1e-3, 2e-2
"""How far a figure may be from the recorded one, relative to it: bf16 rounds to 3 digits, and other
hardware adds in another order."""
MADE: Final = ("corpus", "tokens", "adapter")
"""Folders whose files' digests are in run.json once they are whole."""


def verify(run: str | Path, *, emit: Emit = ignore) -> Verification:
    """Check digests and checkpoints, load the adapter, compute one held-out figure again.

    Raises RunError if there is no such run, or another process works on it.
    """
    direct = RunFolder((Path.cwd() / run).absolute())
    # Even if its run.json is damaged: that is the first thing to find.
    folder = direct if direct.run_json.exists() else find_run(run, Path.cwd())
    with folder.held_still():
        findings = list(_findings(folder, emit))
        ok = all(finding.ok for finding in findings)
        advice = () if ok else tuple(_advice(folder, findings))
    return Verification(run=str(folder.path), ok=ok, findings=tuple(findings), advice=advice)


def _findings(folder: RunFolder, emit: Emit) -> Iterator[RunFinding]:
    try:
        state = folder.state()
    except RunError as error:
        yield RunFinding(what="run.json", ok=False, detail=str(error))
        yield from _of_checkpoints(folder)
        return
    status = "stopped" if state.status == "running" else state.status  # no process holds its lock
    yield RunFinding(what="run.json", ok=True, detail=f"whole; the run is {status}")
    yield from _of_files(folder)
    yield from _of_checkpoints(folder)
    if folder.adapter.exists():
        yield from _of_the_adapter(folder, state, emit)
    else:
        is_due = state.status == "finished"
        detail = "there is none" if is_due else "none yet, since the run is not finished"
        yield RunFinding(what="adapter", ok=not is_due, detail=detail)


def _of_files(folder: RunFolder) -> Iterator[RunFinding]:
    """Every file that was complete once, by its digest."""
    digests = folder.digests()
    for made in MADE:
        names = [name for name in digests if name.startswith(f"{made}/")]
        wrong = list(_wrong_files(folder, {name: digests[name] for name in names}))
        yield from wrong
        if names and not wrong:
            detail = f"{len(names)} files fit their SHA-256"
            yield RunFinding(what=made, ok=True, detail=detail)


def _wrong_files(folder: RunFolder, digests: dict[str, str]) -> Iterator[RunFinding]:
    for name, digest in digests.items():
        try:
            found = sha256_of(folder.path / name)
        except RunError as error:
            yield RunFinding(what=name, ok=False, detail=str(error))
            continue
        if found != digest:
            yield RunFinding(what=name, ok=False, detail="it does not fit its SHA-256 in run.json")


def _of_checkpoints(folder: RunFolder) -> Iterator[RunFinding]:
    from repotune.training import damages

    for path, damage in damages(folder.checkpoints).items():
        yield RunFinding(
            what=f"checkpoints/{path.name}", ok=damage is None, detail=damage or "whole"
        )


def _of_the_adapter(folder: RunFolder, state: RunState, emit: Emit) -> Iterator[RunFinding]:
    """Whether it loads onto its base model, and scores what it scored."""
    from repotune.evaluation import sample_loss
    from repotune.stages import heldout_sample, open_tuned

    what = "adapter on its base model"
    try:
        job, decoder = open_tuned(folder, emit)
        yield RunFinding(what=what, ok=True, detail=f"loads onto {job.base.name}")
        what = "held-out loss"
        recorded = state.facts.get("training", {}).get("heldout_loss")
        sample = heldout_sample(folder, job)
        if recorded is None or not sample:
            yield RunFinding(what=what, ok=True, detail="none was recorded to compare with")
            return
        now = sample_loss(decoder, sample, should_stop=lambda: False)
    except RunError as error:
        yield RunFinding(what=what, ok=False, detail=str(error))
        return
    except RepotuneError as error:  # another adapter would not help
        yield RunFinding(what="base model", ok=False, detail=str(error))
        return
    assert now is not None
    is_same = job.is_where(state.facts)
    yield RunFinding(
        what=what,
        ok=math.isclose(now, recorded, rel_tol=SAME_MACHINE if is_same else OTHER_MACHINE),
        detail=f"{now:.4f} nats per token now, {recorded:.4f} when it was trained",
    )


def _advice(folder: RunFolder, findings: list[RunFinding]) -> Iterator[str]:
    """What can be saved, by what is wrong."""
    wrong = [finding.what for finding in findings if not finding.ok]
    checkpoints = [one for one in findings if one.what.startswith("checkpoints/")]
    whole = next((one.what for one in checkpoints if one.ok), None)
    resume = f"`repotune tune --resume {folder.path}`"
    if "run.json" in wrong:
        if whole is not None:
            yield (
                f"{whole}/state.json says under about.config what the run was configured with, and "
                "lora.safetensors beside it holds the weights."
            )
        yield f"An adapter in {folder.adapter} is used without the run: PEFT loads it as it is."
        return
    if any(name.startswith("checkpoints/") for name in wrong):
        if whole is not None:
            yield f"Damaged checkpoints are passed over: {resume} goes on from {whole}."
        else:
            yield f"No checkpoint is whole: {resume} would begin again at step 0."
    if any(name.startswith("adapter") or name == "held-out loss" for name in wrong):
        if whole is not None:
            yield (
                f"Move {folder.adapter} away, and {resume} writes it again from the "
                f"checkpoints, of which {whole} is whole."
            )
        else:
            yield (
                "The adapter cannot be written again, since no checkpoint is whole: start a new "
                f"run with --config {folder.config_toml}."
            )
    if any(name.startswith(("corpus", "tokens")) for name in wrong):
        yield (
            "Corpus and rows are needed for more training and for the evaluation only; moved away, "
            f"they are made again by {resume}, and are the same if the source tree is."
        )
