"""Results as text for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from repotune.records import (
    Compared,
    Completion,
    Evaluation,
    Forgetting,
    GroupFigures,
    HandOver,
    Memorisation,
    Outcome,
    Proof,
    RunResult,
    Served,
)
from repotune.runs import RunInfo

GROUPS_SHOWN = 5


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout, in ASCII, so that no console's code page can spoil it."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def resume_command(run: str) -> str:
    """What to type to go on with the run in folder ``run``."""
    quoted = f'"{run}"' if " " in run else run
    return f"repotune tune --resume {quoted}"


def tune_json(result: RunResult) -> dict[str, Any]:
    """The figures of a run; ``heldout_bits_per_byte`` is None if it was not evaluated."""
    evaluation = result.evaluation
    return {
        "run": result.run,
        "steps": result.steps,
        "tokens": result.tokens,
        "tokens_kept": result.tokens_kept,
        "tokens_per_second": result.tokens_per_second,
        "interrupted": result.interrupted,
        "adapter": result.adapter,
        "best_step": result.best_step,
        "heldout_loss": result.heldout_loss,
        "stopped_early": result.stopped_early,
        "plan": outcome_json(result.outcome) if result.outcome else None,
        **(evaluation_json(evaluation) if evaluation else {"heldout_bits_per_byte": None}),
    }


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Predicted and measured, None where it could not be measured."""
    return {
        "peak_gib": {
            "predicted": _gib(outcome.predicted_peak_bytes),
            "measured": _gib(outcome.measured_peak_bytes),
        },
        "tokens_per_second": {
            "predicted": outcome.predicted_tokens_per_second,
            "measured": outcome.measured_tokens_per_second,
        },
    }


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """The main figure first, then everything that was measured."""
    difference = evaluation.difference
    return {
        "heldout_bits_per_byte": {
            "base": evaluation.base_bits_per_byte,
            "tuned": evaluation.tuned_bits_per_byte,
            "ci95_of_difference": [difference.low, difference.high],
        },
        "evaluation": asdict(evaluation),
    }


def tune_text(result: RunResult) -> str:
    """What a run did, ending with the evaluation and one completion."""
    lines = [
        f"Run        {result.run}",
        f"Training   {result.steps} steps, {result.tokens:,} tokens, "
        f"{result.tokens_per_second:,.0f} tokens/s; "
        f"{result.tokens_kept:.1%} of the corpus' tokens are in a row",
    ]
    if result.best_step is not None:
        early = ", stopped early" if result.stopped_early else ""
        lines.append(
            f"Best step  {result.best_step}: held-out loss {result.heldout_loss:.4f} nats per "
            f"token{early}"
        )
    if result.outcome is not None:
        lines.append(f"Plan       {outcome_text(result.outcome)}")
    if result.adapter is not None:
        lines.append(f"Adapter    {result.adapter}")
    if result.evaluation is not None:
        lines.append(evaluation_text(result.evaluation))
    return "\n".join(lines)


def outcome_text(outcome: Outcome) -> str:
    """``predicted 4.1 GiB, 320 tokens/s; measured 4.0 GiB, 312 tokens/s once it was warm``."""

    def both(peak: int | None, speed: float | None) -> str:
        memory = "no peak" if peak is None else f"{peak / 2**30:.1f} GiB"
        return f"{memory}, {speed:,.0f} tokens/s" if speed else memory

    predicted = both(outcome.predicted_peak_bytes, outcome.predicted_tokens_per_second)
    measured = both(outcome.measured_peak_bytes, outcome.measured_tokens_per_second)
    return f"predicted {predicted}; measured {measured} once it was warm"


def evaluation_text(evaluation: Evaluation) -> str:
    """Base against tuned, one completion as an example, and the verdict."""
    base, tuned = evaluation.base_bits_per_byte, evaluation.tuned_bits_per_byte
    difference = evaluation.difference
    lines = [
        f"Held out   {base:.4f} -> {tuned:.4f} bits per byte ({tuned / base - 1:+.1%}; "
        f"difference {difference.value:+.4f}, 95 % interval {difference.low:+.4f} "
        f"to {difference.high:+.4f})",
        f"           {evaluation.files} of {evaluation.files_available} files, "
        f"{evaluation.tokens:,} tokens; {evaluation.sampled}",
        "           none is a near-duplicate of a training file (Jaccard 0.7 or more): left out "
        f"{evaluation.left_out}",
    ]
    if evaluation.cursors:
        exact, similar = evaluation.exact_match, evaluation.edit_similarity
        lines.append(
            f"Next line  exact {exact['base']:.1%} -> {exact['tuned']:.1%}, "
            f"edit similarity {similar['base']:.3f} -> {similar['tuned']:.3f}, "
            f"{evaluation.cursors} cursors"
        )
    if evaluation.names:
        recall = evaluation.name_recall
        lines.append(
            f"Own names  {recall['base']:.1%} -> {recall['tuned']:.1%} of {evaluation.names} names "
            "that your code defines, and that did not stand above the cursor"
        )
    if evaluation.infill:
        lines.append(infill_text(evaluation.infill))
    lines += forgetting_lines(evaluation.forgetting) if evaluation.forgetting else []
    if evaluation.memorisation is not None:
        lines += memorisation_lines(evaluation.memorisation)
    lines += [f"By {one.by} {group_text(one)}" for one in shown_groups(evaluation)]
    lines += [completion_text(one) for one in evaluation.completions[:1]]
    if evaluation.judgement:
        lines.append(f"Verdict    {evaluation.judgement.sentence}")
    return "\n".join(lines)


def forgetting_lines(forgetting: Forgetting) -> list[str]:
    """Base against tuned on code and tasks that are not the user's, a line each."""
    lines = []
    library = forgetting.library
    if library is not None:
        base, tuned = library.base_bits_per_byte, library.tuned_bits_per_byte
        lines.append(
            f"Forgetting Python's standard library {base:.4f} -> {tuned:.4f} bits per byte "
            f"({tuned / base - 1:+.1%}; difference {library.difference.low:+.4f} to "
            f"{library.difference.high:+.4f}; bound +2 %), {library.files} files"
        )
    for one in forgetting.tasks:
        name = {"human_eval": "HumanEval", "infilling": "HumanEval's infilling"}[one.name]
        lines.append(
            f"Forgetting {name} {one.base_passed} -> {one.tuned_passed} of {one.tasks} solved "
            f"({one.lost} lost, {one.won} won, p = {one.p_value:.3f})"
        )
    return [*lines, *(f"           {sentence}" for sentence in forgetting.not_measured)]


def infill_text(infill: Mapping[str, Compared]) -> str:
    """``Fill in    exact 10.0% -> 15.0%, edit similarity …``."""
    exact, similar, stops = (
        infill[name] for name in ("exact_match", "edit_similarity", "stop_rate")
    )
    return (
        f"Fill in    exact {exact.base:.1%} -> {exact.tuned:.1%}, edit similarity "
        f"{similar.base:.3f} -> {similar.tuned:.3f}, stopped by itself {stops.base:.1%} -> "
        f"{stops.tuned:.1%}, {exact.count} gaps"
    )


def memorisation_lines(found: Memorisation) -> list[str]:
    """The canaries by how often they were put in, against the controls."""
    lines = [
        f"Memorised  {'yes' if found.memorised else 'not seen'}: canaries against "
        f"{found.controls} controls, p = {found.p_value:.2g}"
    ]
    chance = f"chance {found.exposure_by_chance:.1f}"
    return lines + [
        f"           put in {one.repeats}×: {one.canaries} canaries, exposure {one.exposure:.1f} "
        f"bits ({chance}), p = {one.p_value:.2g}, {one.extracted} written out"
        for one in found.figures
    ]


def shown_groups(evaluation: Evaluation) -> list[GroupFigures]:
    """The largest few of each kind; none of a kind that has only one, which is all files."""
    groups = evaluation.groups
    kinds = [[one for one in groups if one.by == by] for by in ("language", "directory")]
    return [one for some in kinds if len(some) > 1 for one in some[:GROUPS_SHOWN]]


def group_text(one: GroupFigures) -> str:
    """``Python: 1.2500 -> 1.0000 (-0.3000 to -0.2000), 12 files``."""
    interval = one.difference
    span = "too few for an interval"
    if interval is not None:
        span = f"difference {interval.low:+.4f} to {interval.high:+.4f}"
    return (
        f"{one.name}: {one.base_bits_per_byte:.4f} -> {one.tuned_bits_per_byte:.4f}, {span}, "
        f"{one.files} file{'s' * (one.files != 1)}"
    )


def completion_text(completion: Completion) -> str:
    """The lines before the cursor, and what base, tuned and the author wrote there."""
    parts = {
        "": completion.prompt_tail,
        "base": completion.base,
        "tuned": completion.tuned,
        "truth": completion.truth,
    }
    lines = [f"At {completion.path}:{completion.line}"]
    if not completion.truth:  # after a suffix of the user's nobody knows it
        del parts["truth"]
    for label, text in parts.items():
        body = text.strip("\n").split("\n")
        lines += [f"{label if i == 0 else '':>6} | {line}" for i, line in enumerate(body)]
    return "\n".join(lines)


def handover_text(done: HandOver) -> str:
    """What was written, how it was proved, and how to use it."""
    lines = [f"Folder     {done.folder}"]
    lines += [f"           {size / 1e6:10,.1f} MB  {name}" for name, size in done.files.items()]
    if done.proof is not None:
        lines.append(f"Proved by  {proof_text(done.proof)}")
    lines += [f"Unchecked  {sentence}" for sentence in done.unchecked]
    lines.append(f"Use it     {done.command}")
    return "\n".join(lines)


def proof_text(proof: Proof) -> str:
    """Who read it, and how near that is to our decoder."""
    share = proof.adapter_share
    has = "" if share is None else f", with {share:.0%} of what the adapter changes"
    return (
        f"{proof.by}: logits differ by {proof.drift:.2%} (bound {proof.drift_bound:.0%}), same "
        f"token at {proof.same_token:.1%} of {proof.positions} positions, "
        f"{proof.their_nats:.4f} for {proof.nats:.4f} nats a token{has}"
    )


def served_text(served: Served) -> str:
    """The address, what the first request was answered, and the settings for editors."""
    lines = [f"Files      {name}: {path}" for name, path in served.files.items()]
    lines += [f"Proved by  {name}: {proof_text(proof)}" for name, proof in served.proofs.items()]
    lines += [f"Unchecked  {sentence}" for sentence in served.unchecked]
    for trial in served.trials:
        lines.append(f"Tried      {trial.model} answered in {trial.seconds:.1f} s, at |:")
        marked = f"{trial.prefix}|{trial.answer}|{trial.suffix or ''}"
        lines += [f"           {line}" for line in marked.strip("\n").split("\n")]
    for name, text in served.settings.items():
        lines += ["", f"{name}", *(f"    {line}" for line in text.rstrip("\n").split("\n"))]
    lines += [
        "",
        f"Token      {served.token}",
        f"Models     {', '.join(served.models)}, {served.context:,} tokens of prompt and answer",
        f"Ready      {served.address}  (Ctrl-C stops it)",
    ]
    return "\n".join(lines)


def runs_text(infos: Sequence[RunInfo], folder: Path) -> str:
    """A table of runs, one line each."""
    if not infos:
        return f"No runs in {folder}: `repotune tune PATH` makes one."
    header = ("RUN", "STATUS", "CREATED (UTC)", "MODEL", "STEPS", "KEPT", "BITS PER BYTE", "TREE")
    rows = [header, *(_run_row(info) for info in infos)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _gib(count: int | None) -> float | None:
    return None if count is None else count / 2**30


def _run_row(info: RunInfo) -> tuple[str, ...]:
    state, kept = info.state, ",".join(map(str, info.kept_steps))
    if state is None:
        return (info.name, info.status, "", "", "", kept, "", "")
    figures = state.facts.get("heldout_bits_per_byte")
    return (
        info.name,
        info.status,
        state.created[:16].replace("T", " "),
        str(state.facts.get("model", state.model)),
        str(state.facts.get("training", {}).get("steps", "")),
        kept,
        f"{figures['base']:.3f} -> {figures['tuned']:.3f}" if figures else "",
        state.tree,
    )
