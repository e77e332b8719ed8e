"""TensorBoard's curves of a run: pleasant to have, so what goes wrong with them ends only them.

Written here and not by its writer, whose thread would print a traceback where the disk is full,
and whose every record is made by a loop of Python over its bytes: a step is one record.
The only file that imports ``tensorboard``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from repotune.events import Emit, Notice

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

_VERSION = "brain.Event:2"


class Curves:
    """A new file of points in ``folder``; the points after ``reached`` in older ones are hidden."""

    def __init__(self, folder: Path, reached: int, emit: Emit) -> None:
        self._folder, self._reached, self._emit = folder, reached, emit
        self._writer: RecordWriter | None = None

    def __enter__(self) -> Curves:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        # Files are read in the order of their names.
        name = f"events.out.tfevents.{time.time():017.6f}.{os.getpid()}"
        with self._given_up_on_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter((self._folder / name).open("wb"))
            self._write(Event(file_version=_VERSION))
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=self._reached + 1, session_log=start))
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            with self._given_up_on_errors():
                self._writer.close()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Draw a point at ``step`` of each curve, given by tag."""
        if self._writer is None:
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        with self._given_up_on_errors():
            self._write(Event(step=step, summary=Summary(value=points)))

    def _write(self, event: Event) -> None:
        assert self._writer is not None
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    @contextmanager
    def _given_up_on_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            writer, self._writer = self._writer, None
            if writer is not None:
                with suppress(OSError):  # what did not fit is tried once more
                    writer.close()
            self._emit(
                Notice(
                    message=f"TensorBoard's curves in {self._folder} are not written any more "
                    f"({error.strerror or error}); metrics.jsonl has the same numbers."
                )
            )
