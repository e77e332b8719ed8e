"""Base against tuned on held-out code: bits per byte, next lines, how sure that is, a verdict.

``excerpts`` chooses what is read of which file, ``bits_per_byte`` scores it, ``bootstrap`` gives
the interval, ``groups`` the same by language and directory; ``cursors`` chooses places in the
files, ``continuation`` writes on from there, ``completions`` is what both models write,
``line_figures`` compares it, also by the repository's own ``names``; ``forgetting`` is the same for
code and tasks that are not the user's (``library``, ``human_eval``, told apart from chance by
``mcnemar``); ``memorisation`` compares canaries with controls; ``verdict`` says whether to use the
adapter, in the words of ``repotune.verdict_text``; ``comparison`` is all of it but forgetting and
memorisation, ``saved`` its file on disk. ``sample`` is a small part of it, for the time of the
training.
"""

from repotune.evaluation.comparison import evaluate
from repotune.evaluation.completions import complete_at
from repotune.evaluation.forgetting import measure_forgetting, with_forgetting
from repotune.evaluation.memorisation import with_memorisation
from repotune.evaluation.sample import sample_loss, sample_rows
from repotune.evaluation.saved import read_evaluation, write_evaluation

__all__ = [
    "complete_at",
    "evaluate",
    "measure_forgetting",
    "read_evaluation",
    "sample_loss",
    "sample_rows",
    "with_forgetting",
    "with_memorisation",
    "write_evaluation",
]
