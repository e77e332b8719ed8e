"""A folder appears whole or not at all, and never in the place of something else."""

import errno
import shutil

import pytest

from repotune.errors import DiskFull, RunError, UsageError
from repotune.export.fresh import fresh_folder, refuse_no_room, refuse_taken


def test_it_appears_at_the_end(tmp_path):
    target = tmp_path / "new" / "out"
    with fresh_folder(target) as partial:
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
    refuse_taken(target)
    with fresh_folder(target) as partial:
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
    with pytest.raises(seen), fresh_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("a")
        raise raised
    assert list(tmp_path.iterdir()) == []


def test_what_is_taken_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match=r"full is not empty \(1 entries\).*-o"):
        refuse_taken(tmp_path / "full")
    with pytest.raises(UsageError, match=r"mine\.txt is a file.*-o"):
        refuse_taken(tmp_path / "full" / "mine.txt")
    refuse_taken(tmp_path / "absent")


def test_room_is_asked_for_where_the_folder_will_lie(tmp_path, monkeypatch):
    asked = []

    def usage(place):
        asked.append(place)
        return shutil._ntuple_diskusage(10**10, 9 * 10**9, 10**9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    refuse_no_room(tmp_path / "a" / "b", 10**9)
    with pytest.raises(DiskFull, match=r"takes 2\.50 GB of disk and 1\.00 GB is free at .*-o"):
        refuse_no_room(tmp_path / "a" / "b", 2_500_000_000)
    assert asked == [tmp_path, tmp_path]
