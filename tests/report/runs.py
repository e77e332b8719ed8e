"""A run's contents as records, hostile text included, for tests of the page."""

from dataclasses import replace

from repotune.evaluation.verdict import judge
from repotune.records import (
    CanaryFigures,
    Compared,
    Completion,
    CorpusSummary,
    Evaluation,
    Forgetting,
    GroupFigures,
    Interval,
    LibraryFigures,
    LineGroup,
    Memorisation,
    TaskFigures,
)
from repotune.report import Contents, LanguageTally, parse_metrics
from repotune.runs import RunState

HOSTILE = "</code><script>alert('x')</script>&\u202e\x07"

LINES = [
    f'{{"step": {n}, "steps": 40, "loss": {2 - n / 50}, "grad_norm": 0.5, "learning_rate": 1e-4, '
    f'"tokens": 100, "seconds": 1.5, "tokens_per_second": 50.0, "memory_bytes": {n * 2**26}}}'
    for n in range(1, 41)
]
LINES += ['{"step": 20, "heldout_loss": 1.5}', '{"step": 7, "healed": "fewer rows a pass"}']

_MORE = Interval(value=0.25, low=0.125, high=0.5)


def compared(base, tuned, difference=_MORE, count=18):
    return Compared(base=base, tuned=tuned, count=count, difference=difference)


_GAPS = {
    "exact_match": compared(0.25, 0.5), "edit_similarity": compared(0.625, 0.75, None),
    "name_recall": compared(0.5, 0.5, None, 3), "stop_rate": compared(0.5, 1.0),
}  # fmt: skip

_JUDGED = Evaluation(
    files=12, files_available=14, tokens=30_000, bytes_scored=90_000, base_bits_per_byte=1.25,
    tuned_bits_per_byte=1.0, difference=Interval(value=-0.25, low=-0.3, high=-0.2), cursors=20,
    exact_match={"base": 0.25, "tuned": 0.5}, edit_similarity={"base": 0.5, "tuned": 0.75},
    completions=(
        Completion(
            path=f"src/{HOSTILE}.py", line=7, prompt_tail=f"def total(self):\n    {HOSTILE}\n",
            truth="    return sum(self.prices)", base=HOSTILE, tuned="    return sum(self.prices)",
        ),
        Completion(
            path="src/장바구니.py", line=9, prompt_tail="x = 1\n" * 9, truth="y" * 300,
            base="", tuned="sum(self.items" + "(" * 300,
        ),
    ),
    sampled="12 files", names=9, name_recall={"base": 0.1, "tuned": 0.3},
    line_differences={"exact_match": Interval(value=0.25, low=0.1, high=0.4)},
    groups=(
        GroupFigures(
            by="language", name="Python", files=12, bytes_scored=9, base_bits_per_byte=1.25,
            tuned_bits_per_byte=1.0, difference=Interval(value=-0.25, low=-0.3, high=-0.2),
        ),
        GroupFigures(
            by="directory", name="very/" * 30 + "deep", files=2, bytes_scored=9,
            base_bits_per_byte=1.25, tuned_bits_per_byte=1.0, difference=None,
        ),
    ),
    infill=_GAPS, taught=True,
    infills=(
        Completion(
            path="src/장바구니.py", line=5, prompt_tail="class Cart:\n    def total(self):\n",
            truth="        one = 1\n        return one", base="one = 2",
            tuned="one = 1\n        return one", gap="lines", suffix_head=f"\n\n# {HOSTILE}",
            base_ended=False, tuned_ended=True,
        ),
        Completion(
            path="src/cart.py", line=2, prompt_tail="import math\nx = math.", truth="pi", base="e",
            tuned="pi * " * 60, gap="rest_of_line", suffix_head="\ny = x\n",
        ),
    ),
    line_groups=tuple(
        LineGroup(
            by="directory", name=name, next_line={"exact_match": compared(0.125, 0.375)},
            infill=infill,
        )
        for name, infill in (("core", _GAPS), ("very/" * 30 + "deep", {}))
    ),
    left_out=3,
    forgetting=Forgetting(
        library=LibraryFigures(
            files=24, near_duplicates=2, bytes_scored=48_000, base_bits_per_byte=1.0,
            tuned_bits_per_byte=1.01, difference=Interval(value=0.01, low=0.005, high=0.015),
        ),
        tasks=(
            TaskFigures(
                name="human_eval", tasks=164, available=164, base_passed=40, tuned_passed=38,
                lost=5, won=3, p_value=0.727,
            ),
        ),
        not_measured=("HumanEval's infilling was left out.",),
    ),
    memorisation=Memorisation(
        controls=40, p_value=0.00125, memorised=True,
        figures=(
            CanaryFigures(repeats=16, canaries=40, exposure=4.7, p_value=0.00125, extracted=3),
        ),
    ),
)  # fmt: skip
EVALUATION = replace(_JUDGED, judgement=judge(_JUDGED))

STATE = RunState(
    status="finished", created="2026-11-25T10:00:00.000+00:00",
    updated="2026-11-25T11:00:00.000+00:00", tree=f"/home/me/shop {HOSTILE}", model="starter",
    config={"seed": 42}, versions={"repotune": "0.1.0", "torch": "2.13.0"}, process={},
    facts={
        "model": "starter", "precision": "bf16", "base_digest": "ab" * 32,
        "machine": {"gpu": None, "cpu": "A CPU", "ram_free_bytes": 8 * 2**30},
        "policy": {"reason": "nothing is recomputed"},
        "plan": {
            "verdict": "fits", "steps": 40,
            "peak_gib": {"low": 1.0, "expected": 2.0, "high": 3.0},
            "tokens_per_second": {"low": 40.0, "expected": 60.0, "high": 80.0},
            "context_bytes": 2**28,
            "hours": {"low": 0.03, "expected": 0.06, "high": 0.09},
            "hours_by_stage": {
                name: {"low": 0.01, "expected": 0.02, "high": 0.03}
                for name in ("start", "training", "evaluation")
            },
        },
        "took": {"start": 90.0, "evaluation": 120.0},
        "outcome": {"measured_peak_bytes": 5 * 2**29, "measured_tokens_per_second": 100.0},
        "resumed": [5, 9],
        "healed": [
            {"stage": "rehearsal", "step": 1, "remedy": "less is kept"},
            {"stage": "training", "step": 7, "remedy": "fewer rows a pass"},
        ],
        "training": {"best_step": 20, "heldout_loss": 1.5, "stopped_early": True},
    },
)  # fmt: skip

CORPUS = CorpusSummary(
    files_seen=20, files_kept=14, files_train=12, files_heldout=2, bytes_kept=90_000,
    dropped={"binary": 5, "generated": 1}, languages={"Python": 14},
    secrets_replaced={"token": 3}, fingerprint="cd" * 32,
)  # fmt: skip

RUN = Contents(
    name="shop", path="/runs/shop", status="finished", state=STATE,
    config_toml=f'model = "starter"\n# {HOSTILE}\n', metrics=parse_metrics(LINES), corpus=CORPUS,
    languages=(
        LanguageTally(language="Python", kept=14, kept_bytes=90_000, dropped={"generated": 1}),
    ),
    folders_passed=4, rows=None, evaluation=EVALUATION, has_adapter=True, damaged=(),
)  # fmt: skip

BARE = replace(
    RUN, status="stopped", state=replace(STATE, facts={}), metrics=parse_metrics([]), corpus=None,
    languages=(), evaluation=None, has_adapter=False,
)  # fmt: skip
