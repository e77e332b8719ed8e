"""Downloads from a stand-in of the hub on the loopback interface."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
import transformers

from repotune.model import open_weights, resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CLIENT = Path(__file__).with_name("hub_client.py")


@dataclass
class Repository:
    files: dict[str, bytes]
    commits: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, "v1": COMMIT})
    gated: bool = False
    stall_after: int | None = None
    """Send so many bytes of a file, then nothing until ``go_on``."""
    break_after: int | None = None
    """Send so many bytes of a file, then hang up; once only."""
    ranges: bool = True


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.sent: list[tuple[str, int, int]] = []
        """(file, first byte, bytes) of every GET of a file's content."""
        self.stalled, self.go_on = Event(), Event()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, revision = "/".join(parts[2:4]), (parts[5:] or ["main"])[0]
            repository, commit = self._find(name, revision)
            if commit:
                self._describe(name, repository, commit)
            return
        name, (revision, file) = "/".join(parts[:2]), parts[3:5]
        repository, commit = self._find(name, revision)
        if commit and repository.gated:
            self._reply(403, {"X-Error-Code": "GatedRepo"})
        elif commit:
            self._content(repository, commit, file)

    def _find(self, name, revision):
        repository = self.server.repositories.get(name)
        if repository is None:
            self._reply(404, {"X-Error-Code": "RepoNotFound"})
            return None, None
        commit = revision if revision == COMMIT else repository.commits.get(revision)
        if commit is None:
            self._reply(404, {"X-Error-Code": "RevisionNotFound"})
        return repository, commit

    def _describe(self, name, repository, commit):
        siblings = [{"rfilename": f, "size": len(data)} for f, data in repository.files.items()]
        answer = {"_id": "0" * 24, "id": name, "modelId": name, "sha": commit, "private": False}
        body = json.dumps({**answer, "siblings": siblings}).encode()
        self._reply(200, {"Content-Type": "application/json"}, body)

    def _content(self, repository, commit, file):
        data = repository.files[file]
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        start = 0
        if repository.ranges and "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        part = data[start:]
        status = 206 if "Content-Range" in headers else 200
        if self.command == "HEAD":
            self._reply(status, headers, part)
            return
        stop = repository.stall_after if file.endswith(".safetensors") else None
        if stop is not None or (file.endswith(".safetensors") and repository.break_after):
            stop = stop or repository.break_after
            self._reply(status, headers, part, send=stop)
            self.server.sent.append((file, start, min(stop, len(part))))
            repository.break_after = None
            if repository.stall_after is not None:
                self.server.stalled.set()
                self.server.go_on.wait(60)
            self.close_connection = True
            return
        self.server.sent.append((file, start, len(part)))
        self._reply(status, headers, part)

    def _reply(self, status, headers, body=b"", send=None):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:send])
            self.wfile.flush()


class Client:
    def __init__(self, hub: Hub, home: Path):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        self.process = subprocess.Popen(
            [sys.executable, str(CLIENT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**environment, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home)},
        )
        assert self._answer() == "ready"

    def ask(self, name, *, revision=None, offline=False):
        self.send(name, revision=revision, offline=offline)
        return self._answer()

    def send(self, name, *, revision=None, offline=False):
        arguments = {"name": name, "revision": revision, "offline": offline}
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def _answer(self):
        return json.loads(self.process.stdout.readline())


@contextmanager
def started(hub: Hub, home: Path) -> Iterator[Client]:
    client = Client(hub, home)
    try:
        yield client
    finally:
        client.kill()


@pytest.fixture(scope="module")
def hub():
    server = Hub()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("hf-home")


@pytest.fixture(scope="module")
def client(hub, home):
    with started(hub, home) as one:
        yield one


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The files of a small llama, in one piece."""
    folder = tmp_path_factory.mktemp("model")
    config = transformers.LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4,
    )  # fmt: skip
    torch.manual_seed(0)
    made = transformers.LlamaForCausalLM(config)
    made.save_pretrained(folder)
    single = {path.name: path.read_bytes() for path in folder.iterdir()}
    made.save_pretrained(folder / "shards", max_shard_size="150KB")
    sharded = {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}
    assert sum(name.endswith(".safetensors") for name in sharded) > 1
    return single, sharded


OTHERS = {
    "README.md": b"# A model",
    "modeling_llama.py": b"raise SystemExit('this must not run')",
    "pytorch_model.bin": bytes(1000),
    "consolidated.safetensors": bytes(1000),
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
}


def snapshot(answer):
    return {path.name for path in Path(answer["ref"]["path"]).iterdir()}


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_only_weights_configuration_and_tokenizer_come_and_the_commit_is_recorded(
    kind, hub, client, model
):
    files = {**model[kind == "sharded"], **OTHERS}
    hub.repositories[f"some/{kind}"] = Repository(files=files)
    answer = client.ask(f"some/{kind}")
    ref = answer["ref"]
    assert (ref["name"], ref["revision"]) == (f"some/{kind}", COMMIT)
    assert snapshot(answer) == set(files) - set(OTHERS) | {
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name in snapshot(answer):
        assert (Path(ref["path"]) / name).read_bytes() == files[name]
    local = resolve_model(ref["path"], revision=None, offline=True, cache=None, emit=print)
    assert local.digest == ref["digest"]
    weights = open_weights(local)
    assert all(len(weights.read(name)) for name in weights.names())


def test_progress_is_told_in_bytes_and_nothing_is_fetched_twice(hub, client, model):
    hub.repositories["some/told"] = Repository(files={**model[0], **OTHERS})
    events = client.ask("some/told")["events"]
    size = sum(len(data) for data in model[0].values()) + 4  # two tokenizer files of 2 bytes
    assert events[0] == {"kind": "StageStarted", "stage": "download", "total": size,
                         "unit": "bytes"}  # fmt: skip
    done = [event["done"] for event in events if event["kind"] == "StageProgress"]
    assert done == sorted(done)
    assert done[-1] == size
    assert events[-1]["kind"] == "StageDone"

    hub.sent.clear()
    again = client.ask("some/told")
    assert hub.sent == []
    assert [e["done"] for e in again["events"] if e["kind"] == "StageProgress"][-1] == size


def test_offline_takes_what_is_there_and_opens_no_connection(hub, client, home, model):
    hub.repositories["some/kept"] = Repository(files={**model[1]})
    online = client.ask("some/kept")["ref"]
    del hub.repositories["some/kept"]
    assert client.ask("some/kept", offline=True)["ref"] == online
    assert client.ask("some/kept", offline=True, revision=COMMIT)["ref"] == online
    answer = client.ask("some/other", offline=True)
    assert answer["error"] == "DownloadError"
    assert answer["message"].endswith("connect to the network and leave out --offline.")


def test_a_branch_or_tag_is_followed_to_its_commit(hub, client, model):
    hub.repositories["some/tagged"] = Repository(files={**model[0]}, commits={"v1": COMMIT})
    assert client.ask("some/tagged", revision="v1")["ref"]["revision"] == COMMIT
    assert client.ask("some/tagged", revision="v1", offline=True)["ref"]["revision"] == COMMIT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_in_the_middle(ranges, hub, client, model):
    weights, name = model[0]["model.safetensors"], f"some/broken-{ranges}"
    hub.repositories[name] = Repository(files={**model[0]}, break_after=70_000, ranges=ranges)
    hub.sent.clear()
    ref = client.ask(name)["ref"]
    assert (Path(ref["path"]) / "model.safetensors").read_bytes() == weights
    pieces = [(start, size) for file, start, size in hub.sent if file == "model.safetensors"]
    # A server without ranges sends all of it again.
    start = 70_000 if ranges else 0
    assert pieces == [(0, 70_000), (start, len(weights) - start)]


def test_a_download_that_was_killed_goes_on_where_it_stopped(hub, client, home, model):
    weights = model[0]["model.safetensors"]
    repository = Repository(files={**model[0]}, stall_after=150_000)
    hub.repositories["some/killed"] = repository
    hub.sent.clear()
    blobs = home / "hub" / "models--some--killed" / "blobs"
    with started(hub, home) as victim:
        victim.send("some/killed")
        assert hub.stalled.wait(60)
        while not sum(path.stat().st_size for path in blobs.glob("*.partial")):
            pass  # until the client has written some of what it was sent
    repository.stall_after = None
    ref = client.ask("some/killed")["ref"]
    assert (Path(ref["path"]) / "model.safetensors").read_bytes() == weights
    _, (start, size) = [(at, n) for file, at, n in hub.sent if file == "model.safetensors"]
    assert start > 0
    assert start + size == len(weights)


def test_a_file_that_arrives_damaged_is_not_kept(hub, client, home, model):
    hub.repositories["some/damaged"] = Repository(files={**model[0]})
    weights = model[0]["model.safetensors"]
    blobs = home / "hub" / "models--some--damaged" / "blobs"
    blobs.mkdir(parents=True)
    partial = blobs / f"{hashlib.sha256(weights).hexdigest()}.partial"
    partial.write_bytes(b"not the beginning of that file")
    answer = client.ask("some/damaged")
    assert answer["error"] == "DownloadError"
    assert "model.safetensors of some/damaged arrived damaged" in answer["message"]
    assert not partial.exists()
    assert "ref" in client.ask("some/damaged")


def refusals(model):
    config = {"config.json": model[0]["config.json"]}
    lacking = {**model[1]}
    del lacking[next(name for name in sorted(lacking) if name.endswith(".safetensors"))]
    foreign = {**model[0], "config.json": b'{"model_type": "gpt2"}'}
    return {
        "only pickle": (
            Repository(files={**config, "pytorch_model.bin": bytes(10)}),
            ("ModelError", "only as pickle, which can run code when it is read"),
        ),
        "no configuration": (
            Repository(files={"model.safetensors": bytes(10)}),
            ("ModelError", "has no config.json"),
        ),
        "no weights": (Repository(files=config), ("ModelError", "has no .safetensors weights")),
        "a shard is missing": (Repository(files=lacking), ("ModelError", "lacks model-00001-of")),
        "gated": (
            Repository(files={**model[0]}, gated=True),
            ("DownloadError", "asks for consent before it is downloaded"),
        ),
        "foreign": (Repository(files=foreign), ("ModelError", "architecture 'gpt2'")),
        "no such revision": (
            Repository(files={**model[0]}, commits={}),
            ("DownloadError", "has no revision 'v9'"),
        ),
        "no such model": (None, ("DownloadError", "The hub has no model some/refused")),
    }


@pytest.mark.parametrize(
    "case",
    ["only pickle", "no configuration", "no weights", "a shard is missing", "gated", "foreign",
     "no such revision", "no such model"],
)  # fmt: skip
def test_each_refusal_is_one_sentence(case, hub, client, model):
    repository, (error, words) = refusals(model)[case]
    hub.repositories.pop("some/refused", None)
    if repository is not None:
        hub.repositories["some/refused"] = repository
    revision = "v9" if case == "no such revision" else None
    hub.sent.clear()
    answer = client.ask("some/refused", revision=revision)
    assert (answer["error"], words in answer["message"]) == (error, True), answer
    assert answer["message"].endswith(".")
    fetched = {name for name, _, _ in hub.sent}
    assert not any(name.endswith((".bin", ".safetensors")) for name in fetched)


def test_a_name_that_the_hub_cannot_have_is_a_sentence(client):
    answer = client.ask("some/bad..name")
    assert answer["error"] == "DownloadError"
    assert "check the spelling" in answer["message"]


def test_no_network_is_a_sentence(hub, tmp_path):
    away = Hub()
    away.server_close()
    with started(away, tmp_path) as client:
        answer = client.ask("some/model")
    assert answer["error"] == "DownloadError"
    assert "check the network" in answer["message"]
