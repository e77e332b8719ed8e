"""The same door before vLLM: a stand-in that takes what vLLM takes, and, slowly, vLLM itself."""

import json
import os
import shutil
import sys
from pathlib import Path

import openai
import pytest

from repotune import FineTuningConfig, tune
from repotune.cli import main
from repotune.errors import ExportError
from repotune.events import StageDone
from repotune.handover import export
from repotune.serve import serve
from repotune.stages import vllm_models
from repotune.vllm import find_vllm

from .export.tiny import write_model
from .test_serve import TOKEN, ask
from .vllm_stub import write_program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="vLLM does not run on Windows")


@pytest.fixture(scope="module")
def run(source_tree, tmp_path_factory):
    base = tmp_path_factory.mktemp("models") / "tiny"
    write_model(base)
    settings = json.loads((base / "tokenizer_config.json").read_text("utf-8"))
    settings["chat_template"] = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (base / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    config = FineTuningConfig(
        model=str(base), output_dir=tmp_path_factory.mktemp("runs") / "run", max_seq_length=128,
        batch_size=2, gradient_accumulation_steps=1, max_steps=2, learning_rate=3e-2,
        precision="fp32", evaluate=False,
    )  # fmt: skip
    return Path(tune(source_tree, config).run)


@pytest.fixture
def program(tmp_path, monkeypatch):
    made = write_program(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(made.parent), prepend=os.pathsep)
    return made


def test_the_same_requests_are_answered_in_the_same_forms(run, program):
    with serve(run, which="both", engine="vllm", port=0, token=TOKEN) as running:
        served = running.served
        assert [trial.answer for trial in served.trials] == ["one two", "one two"]
        for name, path in served.files.items():
            assert (Path(path) / "model.safetensors").exists()
            assert served.proofs[name].by == "vLLM 0.32.0"
        shares = [served.proofs[name].adapter_share for name in ("tuned", "base")]
        assert shares[0] == pytest.approx(1, abs=0.2)
        assert shares[1] is None
        body = {
            "input_prefix": "def f(x):\n", "input_suffix": "\n", "n_predict": 8, "top_k": 40,
            "samplers": ["top_k"], "cache_prompt": True, "t_max_predict_ms": 500,
        }  # fmt: skip
        assert ask(served.address, "/infill", body) == (200, {"content": "one two", "stop": True})
        # An editor has its context read before it asks.
        status, answer = ask(served.address, "/infill", {**body, "n_predict": 0})
        assert (status, answer["content"]) == (200, "")
        with openai.OpenAI(base_url=f"{served.address}/v1", api_key=TOKEN) as client:
            done = client.completions.create(
                model="base",
                prompt="x = ",
                suffix="\n",
                max_tokens=10**6,
                temperature=0,
                stop=["#"],
            )
            assert done.choices[0].text == "one two"
            assert done.usage.completion_tokens == 3
        assert not running.processes["tuned"].has_ended
        chats_in_what_is_left(served)
    assert_nobody_listens(served.address)


def chats_in_what_is_left(served):
    """vLLM refuses no tokens, and some versions more than fit; llama.cpp takes both."""

    def chat(times, **given):
        said = [{"role": "user", "content": "!" * times}]
        return ask(served.address, "/v1/chat/completions", {"messages": said, **given})

    for given in ({}, {"max_tokens": 10**6}, {"max_tokens": served.context - 1}):
        status, answer = chat(served.context - 10, **given)
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "one two")
    status, answer = chat(3, n_predict=0)  # an editor has its context read before it asks
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "")
    status, answer = chat(served.context)
    assert (status, answer["error"]["type"]) == (400, "exceed_context_size_error")
    assert f"The chat has {served.context} tokens" in answer["error"]["message"]


def assert_nobody_listens(address):
    with pytest.raises(ConnectionRefusedError):
        ask(address, "/v1/models", {})


def test_the_code_is_read_before_any_server_takes_memory(run, program, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("serve"))
    order = []
    read, start = vllm_models.read_fixed_code, vllm_models.VllmServer
    monkeypatch.setattr(
        vllm_models, "read_fixed_code", lambda *given: order.append("read") or read(*given)
    )
    monkeypatch.setattr(
        vllm_models, "VllmServer", lambda *a, **b: order.append("start") or start(*a, **b)
    )
    with serve(tmp_path / "run", which="both", engine="vllm", port=0, token=TOKEN):
        assert order == ["read", "read", "start", "start"]


def test_nobody_gets_in_while_the_models_end(run, program):
    seen = []
    with serve(run, engine="vllm", port=0, token=TOKEN) as running:
        process, address = running.processes["tuned"], running.served.address
        end = process.close

        def close():
            assert_nobody_listens(address)
            seen.append("closed")
            end()

        process.close = close
    assert seen == ["closed"]


def test_a_folder_is_made_once_and_proved_by_the_server_itself(run, program):
    with serve(run, which="tuned", engine="vllm", port=0, token=TOKEN):
        pass
    events = []
    with serve(run, which="tuned", engine="vllm", port=0, token=TOKEN, emit=events.append) as again:
        assert again.served.proofs["tuned"].by == "vLLM 0.32.0"
    assert [event.stage for event in events if isinstance(event, StageDone)] == ["load"]
    left = sorted(path.name for path in (run / "serve").glob("tuned-vllm-*"))
    assert len(left) == 2  # the folder and its proof


def test_wrong_use_is_one_sentence(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["serve", str(run), "--engine", "vllm"]) == 1
    assert "There is no program `vllm` on PATH" in capsys.readouterr().err
    assert main(["serve", str(run), "--engine", "vllm", "--quantisation", "f16"]) == 2
    assert "vLLM has 16-bit weights" in capsys.readouterr().err


def test_one_that_does_not_start_leaves_nothing_running(run, tmp_path, monkeypatch):
    made = write_program(tmp_path / "bin", "raise SystemExit('ValueError: no room for the cache')")
    monkeypatch.setenv("PATH", str(made.parent), prepend=os.pathsep)
    with (
        pytest.raises(ExportError, match="no room for the cache"),
        serve(run, which="tuned", engine="vllm", port=0, token=TOKEN),
    ):
        pass


@pytest.mark.slow
@pytest.mark.timeout(1200)  # vLLM takes a minute to start on two cores, twice
@pytest.mark.skipif(find_vllm() is None, reason="vLLM is not on PATH: see make test-vllm")
def test_vllm_itself_reads_and_serves_the_starter_taught_to_fill_in(source_tree, tmp_path):
    config = FineTuningConfig(
        model="starter", output_dir=tmp_path / "run", max_seq_length=128, batch_size=2,
        gradient_accumulation_steps=1, max_steps=3, learning_rate=1e-3, fim_tokens="add",
        evaluate=False,
    )  # fmt: skip
    run = tune(source_tree, config).run
    done = export(run, tmp_path / "out", to="vllm")
    assert done.unchecked == ()
    assert done.proof.drift < 0.02
    assert done.proof.adapter_share == pytest.approx(1, abs=0.1)
    with serve(run, engine="vllm", port=0, token=TOKEN) as running:
        body = {"input_prefix": "def mean(values):\n    ", "n_predict": 8, "temperature": 0}
        answers = [
            ask(running.served.address, "/infill", {**body, "input_suffix": suffix})
            for suffix in ("\n    return total\n", "\n\nclass Reader:\n    pass\n")
        ]
        assert [status for status, _ in answers] == [200, 200]
        assert all(set(answer) == {"content", "stop"} for _, answer in answers)
        assert json.dumps(answers[0]) != json.dumps(answers[1])
