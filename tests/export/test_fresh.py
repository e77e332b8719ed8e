"""An export never takes the place of something else, and asks for its room before."""

import shutil

import pytest

from repotune.errors import DiskFull, UsageError
from repotune.export.fresh import refuse_no_room, refuse_taken


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
