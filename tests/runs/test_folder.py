"""A run folder is whole or absent, one process works on it, and damage is found."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from repotune.errors import RunError
from repotune.runs import (
    RUNS_FOLDER,
    RunFolder,
    create_run,
    default_run_path,
    find_run,
    list_runs,
    open_run,
    unfinished_like,
    write_json_atomic,
)

CONFIG = {"batch_size": 4, "model": None}


def make(path: Path) -> RunFolder:
    return create_run(
        path, tree=path.parent, model="starter", config=CONFIG, config_toml="batch_size = 4\n"
    )


def test_a_new_run_says_all_that_is_needed_to_start_it_again(tmp_path: Path) -> None:
    run = make(tmp_path / "deep" / "run")
    assert run.path.is_absolute()
    state = open_run(tmp_path / "deep" / "run").state()
    assert (state.status, state.model, state.config) == ("running", "starter", CONFIG)
    assert Path(state.tree) == (tmp_path / "deep").resolve()
    assert set(state.versions) == {"repotune", "torch", "python", "platform"}
    assert datetime.fromisoformat(state.created).tzinfo is not None
    assert run.config_toml.read_text(encoding="utf-8") == "batch_size = 4\n"
    assert json.loads(run.run_json.read_text(encoding="utf-8"))["config"] == CONFIG
    assert [entry.name for entry in run.path.parent.iterdir()] == ["run"]


def test_the_users_own_empty_folder_stays_that_folder(tmp_path: Path) -> None:
    before = tmp_path.stat().st_ino
    make(tmp_path)
    assert tmp_path.stat().st_ino == before
    assert open_run(tmp_path).state().status == "running"


def test_an_update_keeps_what_it_does_not_name(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.update(facts={"steps": 3, "model_digest": "abc"})
    run.update("finished", {"steps": 9})
    state = run.state()
    assert state.status == "finished"
    assert state.facts == {"steps": 9, "model_digest": "abc"}
    assert state.config == CONFIG


def test_a_folder_that_is_taken_is_refused_and_left_alone(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    before = run.run_json.read_bytes()
    with pytest.raises(RunError, match=r"already holds a run.*--resume.*-o"):
        make(tmp_path / "run")
    assert run.run_json.read_bytes() == before

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match=r"not empty \(1 entries\)"):
        make(tmp_path / "full")
    with pytest.raises(RunError, match="is a file"):
        make(tmp_path / "full" / "thesis.txt")
    with pytest.raises(RunError, match="cannot be written"):
        make(tmp_path / "full" / "thesis.txt" / "run")
    assert (tmp_path / "full" / "thesis.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"batch_size": 4', '"batch_size": 8'),
        lambda text: text.replace('"running"', '"finished"'),
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('  "config"', '  "colour": "red",\n  "config"'),
    ],
)
def test_damage_and_edits_are_found_and_named(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    run = make(tmp_path / "run")
    run.run_json.write_text(damage(run.run_json.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(RunError, match=r"run\.json"):
        open_run(run.path)
    assert [info.status for info in list_runs(tmp_path)] == ["damaged"]


def test_run_json_in_another_encoding_is_damage(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.run_json.write_bytes(run.run_json.read_text(encoding="utf-8").encode("utf-16"))
    with pytest.raises(RunError, match="damaged"):
        open_run(run.path)


def test_digests_are_noted_and_checked_and_name_the_file(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    for name in ("corpus", "tokens"):
        (run.path / name).mkdir()
        (run.path / name / "a.bin").write_bytes(name.encode())
    run.record_digests(run.corpus, run.tokens)
    assert set(run.digests()) == {"corpus/a.bin", "tokens/a.bin"}
    run.check_digests(run.corpus, run.tokens)
    (run.tokens / "a.bin").write_bytes(b"tokenz")
    with pytest.raises(RunError, match=r"a\.bin was edited or damaged.*move .*tokens away"):
        run.check_digests(run.corpus, run.tokens)
    (run.tokens / "a.bin").unlink()
    with pytest.raises(RunError, match=r"a\.bin is missing: put the original back, or sing\."):
        run.refuse_damaged(run.tokens, otherwise="sing")
    run.refuse_damaged(run.corpus, otherwise="sing")
    (run.tokens / "b.bin").write_bytes(b"made again")
    run.record_digests(run.tokens)
    assert set(run.digests()) == {"corpus/a.bin", "tokens/b.bin"}


def test_digests_that_a_killed_process_did_not_note_are_noted_later(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.corpus.mkdir()
    (run.corpus / "a.bin").write_bytes(b"a")
    run.check_digests(run.corpus)
    assert set(run.digests()) == {"corpus/a.bin"}


def test_another_configuration_is_for_programs_and_for_people(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.configure({"batch_size": 2}, "batch_size = 2\n")
    assert run.state().config == {"batch_size": 2}
    assert run.config_text() == "batch_size = 2\n"
    run.config_toml.write_bytes(b"\xff")
    assert run.config_text() == ""


def test_only_the_same_run_that_saved_and_ended_early_is_offered(tmp_path: Path) -> None:
    tree, folder = tmp_path / "tree", tmp_path / "runs"

    def begun(name: str, *, config: dict[str, object], saved: bool = True) -> RunFolder:
        run = create_run(folder / name, tree=tree, model="m", config=config, config_toml="")
        if saved:
            (run.checkpoints / "step-000003").mkdir(parents=True)
        return run

    config = {"batch_size": 4, "output_dir": None}
    assert unfinished_like(folder, tree, config) is None
    begun("finished", config=config).update("finished")
    begun("nothing-saved", config=config, saved=False).update("interrupted")
    begun("other-settings", config={"batch_size": 2, "output_dir": None}).update("interrupted")
    working = begun("working", config=config)
    with working.locked():
        assert unfinished_like(folder, tree, config) is None
    working.run_json.write_text("{}", encoding="utf-8")
    assert unfinished_like(folder, tree, config) is None
    begun("older", config=config).update("failed")
    begun("newer", config={"batch_size": 4, "output_dir": "x"}).update("interrupted")
    found = unfinished_like(folder, tree, config)
    assert found is not None
    assert found.name == "newer"
    assert unfinished_like(folder, tmp_path / "elsewhere", config) is None


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        open_run(tmp_path / "absent")
    with pytest.raises(RunError, match=r"no run\.json"):
        open_run(tmp_path)


def test_a_run_is_found_by_its_path_and_by_its_name(tmp_path: Path) -> None:
    run = make(tmp_path / RUNS_FOLDER / "mine")
    assert find_run("mine", tmp_path).path == run.path
    assert find_run(f"{RUNS_FOLDER}/mine", tmp_path).path == run.path
    assert find_run(run.path, tmp_path / "elsewhere").path == run.path
    nearer = make(tmp_path / "mine")
    assert find_run("mine", tmp_path).path == nearer.path
    with pytest.raises(RunError, match="yours"):
        find_run("yours", tmp_path)


def test_the_default_folder_is_named_by_tree_and_time_and_is_free(tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5)
    tree = tmp_path / "장바구니"
    tree.mkdir()
    first = default_run_path(tree, tmp_path, now)
    assert first == tmp_path / RUNS_FOLDER / "장바구니-20260102-030405"
    make(first)
    assert default_run_path(tree, tmp_path, now).name == "장바구니-20260102-030405-2"


def test_runs_are_listed_oldest_first(tmp_path: Path) -> None:
    for name in ("c", "a", "b"):
        make(tmp_path / name).update("finished")
    (tmp_path / "not-a-run").mkdir()
    infos = list_runs(tmp_path)
    created = [info.state.created for info in infos if info.state]
    assert created == sorted(created)
    assert sorted(info.name for info in infos) == ["a", "b", "c"]
    with pytest.raises(RunError, match="cannot be listed"):
        list_runs(tmp_path / "absent")


HOLD = """
import sys
from pathlib import Path
from repotune.runs import open_run
with open_run(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(run: RunFolder) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_the_lock_names_its_process_and_dies_with_it(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    with held_by_another_process(run) as process:
        assert [info.status for info in list_runs(tmp_path)] == ["running"]
        with pytest.raises(RunError, match=f"in use by process {process.pid} on "), run.locked():
            pass
        process.kill()
    assert [info.status for info in list_runs(tmp_path)] == ["stopped"]
    with run.locked():
        run.update("finished")
    assert [info.status for info in list_runs(tmp_path)] == ["finished"]


# Counts the calls by which a process changes files below a folder; at call number N it dies
# (as by SIGKILL), or the operating system refuses.
FAULTS = """
import errno, os, sys
from pathlib import Path
from repotune.errors import DiskFull, RunError
from repotune.runs import create_run, open_run

class Fault:
    def __init__(self, folder, act):
        self.folder, self.act, self.left = str(folder), act, 0
        sys.addaudithook(self.hook)
    def hook(self, event, args):
        changes = event in ("os.mkdir", "os.rename") or (event == "open" and args[1] != "r")
        if changes and str(args[0]).startswith(self.folder):
            self.left -= 1
            if self.left == 0:
                self.act()

def make(path):
    return create_run(path, tree=path.parent, model="m", config={"a": 1}, config_toml="a = 1")
"""

DIE = (
    FAULTS
    + """
path = Path(sys.argv[1])
fault = Fault(path.parent, lambda: os._exit(9))
fault.left = int(sys.argv[2])
make(path)
"""
)


@pytest.mark.parametrize("existing", [False, True], ids=["new folder", "empty folder"])
def test_a_process_killed_at_any_moment_leaves_no_run_or_a_whole_one(
    tmp_path: Path, existing: bool
) -> None:
    whole = absent = 0
    for call in range(1, 100):
        path = tmp_path / str(call) / "run"
        path.parent.mkdir()
        if existing:
            path.mkdir()
        code = subprocess.run([sys.executable, "-c", DIE, str(path), str(call)], check=False)
        if code.returncode == 0:
            break
        assert code.returncode == 9
        if (path / "run.json").exists():
            whole += 1
            with open_run(path).locked():
                assert open_run(path).state().config == {"a": 1}
        else:
            absent += 1
            assert list_runs(path.parent) == []
            make(path)
    assert call > 3
    assert absent > 0
    assert whole > 0 or not existing  # a new folder appears by its last call


REFUSE = (
    FAULTS
    + """
def refuse():
    raise OSError(number, os.strerror(number))

base = Path(sys.argv[1])
fault = Fault(base, refuse)
for number, expected in ((errno.ENOSPC, DiskFull), (errno.EIO, RunError)):
    fault.left = 0
    for call in range(1, 100):
        path = base / f"{number}-{call}" / "run"
        path.parent.mkdir()
        fault.left = call
        try:
            make(path).update("finished")
        except (DiskFull, RunError) as error:
            assert type(error) is expected, (call, error)
            if path.exists():
                assert open_run(path).state().status in ("running", "finished")
            else:
                make(path)
        if fault.left > 0:  # fewer calls than that
            break
    print(call)
"""
)


def test_a_call_refused_at_any_moment_is_one_clear_error_and_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSE, str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert done.stderr == ""
    counts = [int(count) for count in done.stdout.split()]
    assert len(counts) == 2
    assert min(counts) > 5


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    write_json_atomic(path, {"a": 1, "b": "가"})
    write_json_atomic(path, {"a": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["evaluation.json"]
    with pytest.raises(RunError, match="cannot be written"):
        write_json_atomic(tmp_path / "absent" / "x.json", {})
