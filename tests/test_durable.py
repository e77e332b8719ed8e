"""A folder appears whole or not at all; a full disk is waited for as long as there is a reason."""

import errno

import pytest

from repotune import durable
from repotune.durable import pause_unless, when_there_is_room, whole_folder
from repotune.errors import DiskFull, RunError

FULL = DiskFull("The disk is full: free some space.")


def failing(*errors):
    left = list(errors)

    def write():
        if left:
            raise left.pop(0)
        return "written"

    return write


def test_it_is_tried_again_after_each_pause_and_said_once() -> None:
    said, pauses = [], []

    def pause() -> bool:
        pauses.append(True)
        return True

    got = when_there_is_room(failing(FULL, FULL, FULL), emit=said.append, pause=pause)
    assert (got, len(pauses)) == ("written", 3)
    assert [event.message for event in said] == ["Paused. The disk is full: free some space."]


def test_the_wait_may_be_given_up() -> None:
    with pytest.raises(DiskFull, match="free some space"):
        when_there_is_room(failing(FULL), emit=lambda event: None, pause=lambda: False)


def test_another_error_is_not_waited_for() -> None:
    with pytest.raises(RunError, match="mend the disk"):
        when_there_is_room(
            failing(RunError("mend the disk")), emit=lambda event: None, pause=lambda: True
        )


def test_a_pause_ends_when_somebody_wants_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not pause_unless(lambda: True)
    monkeypatch.setattr(durable, "PAUSE_SECONDS", 0.0)
    assert pause_unless(lambda: False)
    asked = iter([False, False, True])
    assert not pause_unless(lambda: next(asked))


def test_a_folder_appears_at_the_end(tmp_path):
    target = tmp_path / "new" / "out"
    with whole_folder(target) as partial:
        (partial / "a").write_text("a")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["a"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_an_empty_folder_is_used_and_a_leftover_is_not(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    leftover = tmp_path / ".out.partial"
    leftover.mkdir()
    (leftover / "half").write_text("x")
    with whole_folder(target) as partial:
        (partial / "a").write_text("a")
    assert [path.name for path in target.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull),
        (OSError(errno.EACCES, "Permission denied"), RunError),
    ],
)
def test_what_fails_leaves_nothing(raised, seen, tmp_path):
    with pytest.raises(seen), whole_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("a")
        raise raised
    assert list(tmp_path.iterdir()) == []
