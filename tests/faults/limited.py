"""A process whose files may not grow beyond a limit, which each writer meets at every size.

    python -m tests.faults.limited FOLDER EVERY

Prints, as JSON, for each writer: the sizes tried, how many writes failed, what was wrong. The limit
is the system's own (RLIMIT_FSIZE), so it also holds for what pyarrow and TensorBoard write in their
own code.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repotune.corpus.store import read_documents, write_corpus
from repotune.errors import DiskFull, RunError
from repotune.events import HeldoutMeasured
from repotune.tokens import RowStore
from repotune.training import log_metrics

from ..corpus.test_store import DOCUMENTS, LINES
from ..corpus.test_store import SUMMARY as CORPUS
from ..tokens.test_shards import write

STEPS = 50


@contextmanager
def limit(size: int) -> Iterator[None]:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def write_documents(folder: Path) -> None:
    write_corpus(folder, LINES, DOCUMENTS, CORPUS, [])


def check_documents(folder: Path) -> bool:
    return read_documents(folder) == DOCUMENTS


def check_rows(folder: Path) -> bool:
    return len(RowStore(folder)) == 3


def whole_or_not_there(place: Path, writer, check, every: int) -> dict:
    """Every size below that of the largest file; then the largest, which is enough."""
    folder, wrong, failed = place / "made", [], 0
    writer(folder)
    largest = max(path.stat().st_size for path in folder.iterdir())
    shutil.rmtree(folder)
    sizes = range(0, largest, every)
    for size in sizes:
        try:
            with limit(size):
                writer(folder)
            wrong.append(f"{size}: it was written")
        except (RunError, DiskFull) as error:
            failed += str(folder) in str(error)
        if left := [path.name for path in place.iterdir()]:
            wrong.append(f"{size}: {left} is left")
            shutil.rmtree(folder, ignore_errors=True)
    with limit(largest):
        writer(folder)
    if not check(folder):
        wrong.append("it is not what was written")
    return {"tried": len(sizes), "failed": failed, "wrong": wrong}


def log_steps(place: Path) -> list[str]:
    """What was said on the way."""
    place.mkdir()
    said = []
    with log_metrics(
        place / "metrics.jsonl", place / "tensorboard", reached=0, memory=int, emit=said.append,
        pause=lambda: False,
    ) as log:  # fmt: skip
        for step in range(1, STEPS + 1):
            # Of all events the one whose point takes more bytes than its line.
            log(HeldoutMeasured(step=step, loss=0.5, is_best=False))
    return [event.message for event in said]


def curves_end_alone(place: Path) -> dict:
    """TensorBoard's file is full before the lines are, which are all there then."""
    log_steps(place / "free")
    (events,) = (place / "free" / "tensorboard").iterdir()
    lines, curves = (place / "free" / "metrics.jsonl").stat().st_size, events.stat().st_size
    said = {}
    for size in range(lines, curves, (curves - lines) // 3):
        with limit(size):
            said[size] = log_steps(place / str(size))
        found = (place / str(size) / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in found] == list(range(1, STEPS + 1))
    return {"lines": lines, "curves": curves, "said": said}


def main() -> None:
    place, every = Path(sys.argv[1]), int(sys.argv[2])
    for name in ("corpus", "rows", "curves"):
        (place / name).mkdir()
    found = {
        "corpus": whole_or_not_there(place / "corpus", write_documents, check_documents, every),
        "rows": whole_or_not_there(place / "rows", write, check_rows, every),
        "curves": curves_end_alone(place / "curves"),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
