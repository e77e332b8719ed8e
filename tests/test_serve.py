"""From a run to a completion at an address, through llama.cpp, on a tiny model."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest
import torch

from repotune import FineTuningConfig, tune
from repotune.cli import main
from repotune.errors import DiskFull, DoesNotFit, ExportError, ModelError, RunError, UsageError
from repotune.events import Notice, StageDone
from repotune.export import load_adapter
from repotune.gguf_file import open_gguf
from repotune.job import settle
from repotune.model import Decoder, generate_batch, open_weights
from repotune.runs import RunFolder
from repotune.serve import serve
from repotune.stages import adapter_folder
from repotune.tokens import prompt_ids

from .export.tiny import write_model

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Random weights, so wide that every token of a prompt has an influence."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_model(folder, wide=0.3)
    return folder


@pytest.fixture(scope="module")
def run(base, source_tree, tmp_path_factory):
    config = FineTuningConfig(
        model=str(base), output_dir=tmp_path_factory.mktemp("runs") / "run", max_seq_length=128,
        batch_size=2, gradient_accumulation_steps=1, max_steps=2, learning_rate=1e-2, save_steps=1,
        precision="fp32", evaluate=False,
    )  # fmt: skip
    return Path(tune(source_tree, config).run)


@pytest.fixture(scope="module")
def both(run):
    """Tuned and base, served once for the tests that only ask."""
    with serve(run, which="both", port=0, token=TOKEN) as running:
        yield running


def ask(address, path, body, token=TOKEN):
    place = address.removeprefix("http://")
    connection = http.client.HTTPConnection(place, timeout=60)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    content = json.loads(response.read())
    connection.close()
    return response.status, content


def test_it_is_tried_before_it_is_ready(both, run):
    served = both.served
    assert served.models == ("tuned", "base")
    assert [trial.model for trial in served.trials] == ["tuned", "base"]
    assert all(trial.suffix and trial.answer for trial in served.trials)
    assert served.trials[0].answer != served.trials[1].answer
    assert set(served.settings) == {
        "continue/config.yaml", "llama.vscode/settings.json", "neovim/minuet.lua",
        "neovim/llama_vim.lua",
    }  # fmt: skip
    assert (served.context, served.unchecked) == (512, ())
    for name, path in served.files.items():
        assert served.proofs[name].drift <= served.proofs[name].drift_bound
        assert open_gguf(Path(path)).metadata["tokenizer.ggml.fim_suf_token_id"] == 267


@pytest.mark.parametrize("path", ["/v1/completions", "/infill"])
def test_the_suffix_has_an_influence_on_what_llama_cpp_writes(both, path):
    def written(suffix):
        names = ("prompt", "suffix") if path == "/v1/completions" else (
            "input_prefix", "input_suffix"
        )  # fmt: skip
        body = dict(zip(names, ("def mean(values):\n    ", suffix), strict=True))
        status, answer = ask(
            both.served.address, path, {**body, "temperature": 0, "max_tokens": 24, "n_predict": 24}
        )
        assert status == 200
        return answer["content"] if path == "/infill" else answer["choices"][0]["text"]

    first, second = written("\n    return total\n"), written(")\n\nclass Reader:\n    pass\n")
    assert first != second
    assert first == written("\n    return total\n")


def test_infill_and_completions_ask_the_model_the_same(both):
    """Also where the code is longer than a batch of llama.cpp's."""
    prefix, suffix = "import json\n\ndef read(path):\n    " * 5, "\n    return data\n" * 5
    _, ours = ask(
        both.served.address, "/v1/completions",
        {"prompt": prefix, "suffix": suffix, "temperature": 0, "max_tokens": 16},
    )  # fmt: skip
    _, theirs = ask(
        both.served.address, "/infill",
        {"input_prefix": prefix, "input_suffix": suffix, "temperature": 0, "n_predict": 16},
    )  # fmt: skip
    assert ours["choices"][0]["text"] == theirs["content"]


def test_openais_own_client_works(both):
    gap = {"prompt": "def mean(values):\n    ", "suffix": "\n    return total\n"}
    asked = {**gap, "model": "tuned", "max_tokens": 12, "temperature": 0}
    with openai.OpenAI(base_url=f"{both.served.address}/v1", api_key=TOKEN) as client:
        assert [model.id for model in client.models.list()] == ["tuned", "base"]
        whole = client.completions.create(**asked)
        assert whole.choices[0].finish_reason in ("length", "stop")
        assert whole.usage is not None
        assert whole.usage.completion_tokens > 0
        with client.completions.create(**asked, stream=True) as stream:
            pieces = [piece.choices[0].text for piece in stream]
        assert "".join(pieces) == whole.choices[0].text
        with pytest.raises(openai.BadRequestError, match="temperature must be a number"):
            client.completions.create(**{**asked, "temperature": 99})
        with pytest.raises(openai.NotFoundError, match="There is no model"):
            client.completions.create(**{**asked, "model": "gpt"})
    with (
        openai.OpenAI(base_url=f"{both.served.address}/v1", api_key="wrong") as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_openais_stream_ends_with_done(both):
    place = both.served.address.removeprefix("http://")
    connection = http.client.HTTPConnection(place, timeout=60)
    body = {"prompt": "x = ", "suffix": "\ny = x\n", "max_tokens": 4, "stream": True}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    response = connection.getresponse()
    assert response.headers["Content-Type"] == "text/event-stream"
    *events, end, rest = response.read().decode().split("\n\n")
    connection.close()
    assert (end, rest) == ("data: [DONE]", "")
    pieces = [json.loads(event.removeprefix("data: ")) for event in events]
    assert all(set(piece) >= {"id", "object", "model", "choices"} for piece in pieces)
    assert pieces[-1]["choices"][0]["finish_reason"] in ("length", "stop")


def test_llama_vscodes_request_is_answered_in_llama_cpps_form(both):
    """The fields that llama.vscode sends; what it reads is content and timings."""
    request = {
        "input_prefix": "import os\n\n", "input_suffix": "\nprint(path)\n", "prompt": "path = ",
        "input_extra": [{"text": "root = os.getcwd()\n", "filename": "a.py", "time": 1}],
        "n_predict": 8, "top_k": 40, "top_p": 0.99, "stream": False, "n_indent": 0,
        "samplers": ["top_k", "top_p", "infill"], "cache_prompt": True, "t_max_prompt_ms": 500,
        "t_max_predict_ms": 2500, "model": "",
    }  # fmt: skip
    status, answer = ask(both.served.address, "/infill", request)
    assert status == 200
    assert isinstance(answer["content"], str)  # its sampler for infill may end at once
    assert answer["timings"]["predicted_n"] >= 1
    status, answer = ask(
        both.served.address, "/infill", {**request, "samplers": ["temperature"], "temperature": 0}
    )
    assert (status, answer["timings"]["predicted_n"]) == (200, 8)
    assert answer["content"]
    fields = ["content", "timings/predicted_n", "no/such"]  # which llama.vim asks for
    status, answer = ask(both.served.address, "/infill", {**request, "response_fields": fields})
    assert (status, set(answer)) == (200, {"content", "timings/predicted_n"})
    warm = {**request, "prompt": "", "n_predict": 0, "input_prefix": "", "input_suffix": ""}
    assert ask(both.served.address, "/infill", warm)[0] == 200


def test_each_model_is_called_by_its_name(both):
    body = {"prompt": "import ", "temperature": 0, "max_tokens": 3}
    for name in ("tuned", "base"):
        status, answer = ask(both.served.address, "/v1/completions", {**body, "model": name})
        assert (status, answer["model"]) == (200, name)
    status, answer = ask(both.served.address, "/v1/completions", {**body, "model": "gpt"})
    assert status == 404
    assert "tuned and base" in answer["error"]["message"]


def test_what_the_model_cannot_do_is_said(both):
    status, answer = ask(both.served.address, "/v1/completions", {"prompt": "x = 1\n" * 400})
    assert (status, answer["error"]["type"]) == (400, "exceed_context_size_error")
    assert "context 512" in answer["error"]["message"]
    status, answer = ask(
        both.served.address,
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "?"}]},
    )
    assert status == 400
    assert "no chat template" in answer["error"]["message"]


PROMPTS = (
    ("import json\n\ndef read(path):\n    ", "\n    return data\n"),
    ("class Reader:\n    def __init__(self", ""),
    ("def mean(values):\n    total = ", "\n    return total / len(values)\n"),
    ("for name in sorted(os.listdir(", ""),
    ("x = {'a': 1, ", "}\nprint(x)\n"),
    ("while True:\n    try:\n", "    except OSError:\n        break\n"),
)


@pytest.mark.parametrize("step", [None, 1])
def test_what_is_served_is_what_our_decoder_writes(run, step):
    """By ids, since random weights write no text; 50 prompts of the starter, as text and through
    the door, are in test_handover."""
    folder = RunFolder(run)
    job = settle(folder.state(), lambda event: None)
    decoder = Decoder(open_weights(job.base), lora=job.lora, dtype=torch.float32)
    with adapter_folder(folder, job, step) as adapter:
        load_adapter(adapter, decoder.lora_state(), lora=job.lora)
    decoder.refresh()
    prompts = [prompt_ids(job.tokenizer, *pair) for pair in PROMPTS]
    tuned, base = (
        generate_batch(
            decoder, prompts, max_new_tokens=16, adapted=adapted,
            stop=lambda _, new: new[-1] in job.tokenizer.stop_ids,
        )
        for adapted in (True, False)
    )  # fmt: skip
    with serve(run, port=0, step=step, quantisation="f16") as running:
        server = running.processes["tuned"]
        written = [
            ask(
                server.address, "/completion",
                {
                    "prompt": prompt.tolist(), "n_predict": 16, "temperature": 0,
                    "return_tokens": True,
                },
                server.key,
            )[1]["tokens"]
            for prompt in prompts
        ]  # fmt: skip
    # Weights and keys are rounded to 16 bits there, so that a near tie may fall the other way.
    same = sum(theirs == ours for theirs, ours in zip(written, tuned, strict=True))
    assert same >= len(PROMPTS) - 1
    assert [theirs[:8] for theirs in written] == [ours[:8] for ours in tuned]
    assert tuned != base


def made(events):
    return [event.stage for event in events if isinstance(event, StageDone)]


def write_adapter_config(run, text):
    """As an export would, which notes what it wrote."""
    folder = RunFolder(run)
    (folder.adapter / "adapter_config.json").write_text(text)
    folder.record_digests(folder.adapter)


def test_the_file_is_made_once_and_again_for_another_adapter(run):
    events = []
    with serve(run, port=0) as running:
        first = Path(running.served.files["tuned"])
    with serve(run, port=0, emit=events.append) as running:
        assert running.served.files["tuned"] == str(first)
        assert running.served.proofs["tuned"].positions > 90
    assert made(events) == ["load"]
    time = first.stat().st_mtime_ns
    before = (RunFolder(run).adapter / "adapter_config.json").read_text()
    try:
        write_adapter_config(run, before + "\n")
        with serve(run, port=0) as running:
            second = Path(running.served.files["tuned"])
    finally:
        write_adapter_config(run, before)
    assert second != first
    assert [path.name for path in first.parent.glob(".*")] == []
    assert not first.exists()
    assert time < second.stat().st_mtime_ns
    second.with_suffix(".proof.json").write_text("{")  # as a crash or a person may leave it
    events.clear()
    write_adapter_config(run, before + "\n")
    try:
        with serve(run, port=0, emit=events.append) as running:
            assert running.served.proofs["tuned"].positions > 90
    finally:
        write_adapter_config(run, before)
    assert made(events) == ["check", "load"]


def test_a_kept_checkpoint_is_served_beside_the_adapters_file(run, capsys):
    with serve(run, port=0) as running:
        tuned = running.served.files["tuned"]
    with serve(run, port=0, step=1) as running:
        assert "step1-Q8_0" in running.served.files["tuned"]
        assert running.served.files["tuned"] != tuned
    assert Path(tuned).exists()  # going back and forth makes nothing twice
    assert main(["serve", str(run), "--step", "7"]) == 1
    assert "no checkpoint of step 7, but those of steps 1, 2" in capsys.readouterr().err
    assert main(["serve", str(run), "--step", "1", "--base"]) == 2
    assert main(["runs", str(run.parent), "--json"]) == 0
    assert '"kept_steps": [\n        1,\n        2\n' in capsys.readouterr().out


def test_a_file_that_computes_something_else_is_not_served_nor_kept(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("serve"))
    monkeypatch.setattr("repotune.export.gguf.permuted", lambda tensor, heads: tensor)
    with (
        pytest.raises(ExportError, match="computes something else"),
        serve(tmp_path / "run", port=0),
    ):
        pass
    assert list((tmp_path / "run" / "serve").iterdir()) == []


def test_what_could_not_be_compared_is_served_and_said(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("serve"))
    monkeypatch.setattr("repotune.stages.reading.SLACK", 1e9)
    with serve(tmp_path / "run", port=0) as running:
        assert running.served.proofs == {}
        assert "nothing was compared" in running.served.unchecked[0]


def test_less_memory_gives_requests_less_context(run, monkeypatch):
    """Of the model's 512 tokens; a request that is longer is told what there is."""
    monkeypatch.setattr("repotune.serve.LEAST_CONTEXT", 64)
    needs = iter([2**60, 2**60, 1, 1])
    monkeypatch.setattr("repotune.serve._bytes", lambda *args: next(needs))
    events = []
    with serve(run, port=0, token=TOKEN, emit=events.append) as running:
        assert running.served.context == 128
        status, answer = ask(running.served.address, "/v1/completions", {"prompt": "x = 1\n" * 99})
    assert status == 400
    assert "the context 128" in answer["error"]["message"]
    assert any("128 tokens instead of 512" in e.message for e in events if isinstance(e, Notice))


def test_the_base_stands_in_for_the_tuned_model(run):
    """Rolling back changes nothing in an editor's settings: the name "tuned" goes on to work."""
    with serve(run, which="base", port=0, token=TOKEN, quantisation="q4_k_m") as running:
        body = {"prompt": "import ", "max_tokens": 2, "model": "tuned"}
        status, answer = ask(running.served.address, "/v1/completions", body)
    assert (status, answer["model"]) == (200, "base")


def test_wrong_use_and_what_is_missing_is_one_sentence(run, base, tmp_path, capsys):
    assert main(["serve", str(run), "--ab", "--base"]) == 2
    assert "give one of them" in capsys.readouterr().err
    with pytest.raises(UsageError, match="at least 8"), serve(run, token="short", port=0):
        pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", str(run), "--port", str(port)]) == 2
    assert f"Port {port} cannot be had" in capsys.readouterr().err
    (tmp_path / "neovim").mkdir()
    (tmp_path / "neovim" / "minuet.lua").write_text("-- mine\n")
    assert main(["serve", str(run), "--write-config", str(tmp_path)]) == 2
    assert "is yours and would be replaced" in capsys.readouterr().err
    assert (tmp_path / "neovim" / "minuet.lua").read_text() == "-- mine\n"


def test_without_an_adapter_the_base_is_offered(run, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("adapter", "serve"))
    with pytest.raises(RunError, match="--base"), serve(tmp_path / "run", port=0):
        pass


def test_no_room_is_said_before_anything_is_written(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("serve"))
    full = shutil._ntuple_diskusage(10**9, 10**9, 1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: full)
        with pytest.raises(DiskFull, match="--quantisation"), serve(tmp_path / "run", port=0):
            pass
    assert not (tmp_path / "run" / "serve").exists()
    monkeypatch.setattr("repotune.serve.SLACK_BYTES", 10**15)
    with pytest.raises(DoesNotFit, match="GiB is free"), serve(run, port=0):
        pass


def test_without_llama_cpp_the_command_that_installs_it_is_said(run, monkeypatch):
    monkeypatch.setattr("repotune.serve.version", lambda: None)
    with pytest.raises(ExportError, match=r"repotune\[gguf\]"), serve(run, port=0):
        pass


def test_a_base_that_changed_is_refused(run, base):
    config = base / "config.json"
    before = config.read_text()
    config.write_text(json.dumps({**json.loads(before), "rope_theta": 5e5}))
    try:
        with pytest.raises(ModelError, match="not the one"), serve(run, port=0):
            pass
    finally:
        config.write_text(before)


def test_a_process_that_dies_is_noticed_and_answered_by_503(run):
    with serve(run, port=0, token=TOKEN) as running:
        for process in running.processes.values():
            process.close()
        status, answer = ask(running.served.address, "/v1/completions", {"prompt": "x"})
        assert status == 503
        assert "does not answer" in answer["error"]["message"]
        with pytest.raises(ExportError, match="tuned has ended"):
            running.wait(0)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
def test_the_command_line_shows_it_and_ends_by_a_signal(run, tmp_path):
    """One command: settings written, ready said, the GGUF's process gone with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "config"
    command = [
        sys.executable, "-m", "repotune.cli", "serve", str(run), "--port", str(port), "--json",
        "--write-config", str(config),
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        lines = []
        while not lines or lines[-1] != "}\n":
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    said = json.loads("".join(lines))
    assert said["address"] == f"http://127.0.0.1:{port}"
    assert said["token"] in (config / "llama.vscode" / "settings.json").read_text()
    assert (config / "neovim" / "minuet.lua").stat().st_mode & 0o077 == 0
    assert said["trials"][0]["answer"]
