"""From a run to each other program, on a tiny model; and once, slowly, on the starter."""

import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import openai
import peft
import pytest
import torch
import transformers

from repotune import FineTuningConfig, tune
from repotune.cli import main
from repotune.errors import (
    DiskFull,
    DoesNotFit,
    ExportError,
    ModelError,
    RunError,
    UsageError,
)
from repotune.events import Notice, StageDone
from repotune.export import load_adapter, passage_ids
from repotune.export import proof as proof_module
from repotune.gguf_file import open_gguf
from repotune.handover import export
from repotune.job import settle
from repotune.llama_cpp import Question, ask
from repotune.model import Decoder, generate_batch, open_weights, resolve_model
from repotune.model.starter import starter_path
from repotune.records import LoraSpec
from repotune.runs import RunFolder
from repotune.serve import serve
from repotune.tokens import load_tokenizer

from .vllm_stub import write_program


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    """Our own copy, which a test may change."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(tiny_model, folder)
    return folder


@pytest.fixture(scope="module")
def run(base, source_tree, tmp_path_factory):
    config = FineTuningConfig(
        model=str(base), output_dir=tmp_path_factory.mktemp("runs") / "run", max_seq_length=128,
        batch_size=2, gradient_accumulation_steps=1, max_steps=3, learning_rate=3e-2,
        precision="fp32", eval_max_tokens=1000,
    )  # fmt: skip
    return Path(tune(source_tree, config).run)


def test_peft_gets_the_adapter(run, tmp_path):
    done = export(run, tmp_path / "out", to="peft")
    assert set(done.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert done.proof is not None
    assert done.proof.drift < 1e-5
    assert done.unchecked == ()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        json.loads((tmp_path / "out" / "adapter_config.json").read_text())[
            "base_model_name_or_path"
        ]
    )
    assert peft.PeftModel.from_pretrained(model, tmp_path / "out").active_adapter == "default"


@pytest.mark.parametrize("to", ["merged", "vllm"])
def test_transformers_gets_one_model(to, run, base, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # without vLLM
    events = []
    done = export(run, tmp_path / "My Out", to=to, emit=events.append)
    assert done.proof is not None
    assert 0 < done.proof.drift < done.proof.drift_bound
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "My Out")
    assert model.dtype == torch.bfloat16  # as the base is
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "My Out")
    ours = load_tokenizer(base)
    assert tokenizer.encode("import json\n") == ours.encode("import json\n").tolist()
    assert model.generation_config.eos_token_id == [0]
    assert [event.stage for event in events if isinstance(event, StageDone)] == ["export", "check"]
    assert not [event for event in events if isinstance(event, Notice)]
    if to == "vllm":
        where = f'"{tmp_path / "My Out"}" --served-model-name my-out --host 127.0.0.1'
        assert done.command == f"vllm serve {where} --generation-config vllm"
        assert [sentence[:11] for sentence in done.unchecked] == ["vLLM itself"]


@pytest.mark.skipif(sys.platform == "win32", reason="vLLM does not run on Windows")
def test_vllm_itself_is_asked_where_it_is_there(run, tmp_path, monkeypatch):
    program = write_program(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    done = export(run, tmp_path / "out", to="vllm")
    assert done.unchecked == ()
    assert done.proof is not None
    assert done.proof.by == "vLLM 0.32.0"
    assert done.proof.positions > 100
    assert 0 < done.proof.drift < done.proof.drift_bound
    assert "vLLM 0.32.0" in (tmp_path / "out" / "README.md").read_text("utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="vLLM does not run on Windows")
@pytest.mark.parametrize("others_are_there", [True, False])
def test_a_vllm_that_does_not_start_costs_no_export(others_are_there, run, tmp_path, monkeypatch):
    code = "raise SystemExit(f'ValueError: no free memory for {sys.argv[2]}')"
    program = write_program(tmp_path / "bin", code)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    if not others_are_there:
        monkeypatch.setattr("repotune.export.how_to_check", lambda *names: f"install {names}")
    notices = []
    done = export(
        run, tmp_path / "out", to="vllm",
        emit=lambda event: notices.append(event) if isinstance(event, Notice) else None,
    )  # fmt: skip
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert "did not start" in done.unchecked[-1]
    assert notices[0].message.endswith(f"ValueError: no free memory for {tmp_path / 'out'}")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert done.unchecked[-1] in " ".join(card.split())
    assert str(tmp_path) not in card
    if others_are_there:
        assert done.proof.by.startswith("transformers")
        assert len(done.unchecked) == 1
    else:
        assert done.proof is None
        assert done.unchecked[0] == "install ('transformers',)"


@pytest.mark.skipif(sys.platform == "win32", reason="vLLM does not run on Windows")
def test_a_vllm_that_computes_something_else_costs_the_export(run, tmp_path, monkeypatch):
    code = (
        "likely = Handler.likely\n"
        "def wrong(self, body):\n"
        "    return likely(self, {**body, 'prompt': body['prompt'][::-1]})\n"
        "Handler.likely = wrong\nmain()"
    )
    program = write_program(tmp_path / "bin", code)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    with pytest.raises(ExportError, match="computes something else"):
        export(run, tmp_path / "out", to="vllm")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("quantisation", ["f16", "q8_0", "q4_k_m"])
def test_llama_cpp_gets_a_file(quantisation, run, tmp_path):
    done = export(run, tmp_path / "out", to="gguf", quantisation=quantisation)
    name = f"out-{quantisation.upper()}.gguf"
    assert set(done.files) == {"README.md", name}
    assert done.proof is not None
    assert done.proof.by.startswith("llama.cpp")
    file = open_gguf(tmp_path / "out" / name)
    # Of 64 and 128 numbers no superblock can be made.
    expected = {"f16": {"F16"}, "q8_0": {"Q8_0"}, "q4_k_m": {"Q5_0", "Q8_0"}}[quantisation]
    assert {info.quantisation for info in file.tensors.values()} == {"F32", *expected}
    fim = load_tokenizer(tmp_path / "out" / name).fim
    assert fim is not None
    assert file.metadata["tokenizer.ggml.fim_suf_token_id"] == fim.suffix_id
    assert file.metadata["tokenizer.ggml.eot_token_id"] == fim.end_id


def test_ollama_gets_a_modelfile_beside_it(run, tmp_path, capsys):
    command = ["export", str(run), "--to", "ollama", "-o", str(tmp_path / "out"), "--json"]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["files"]) == {"Modelfile", "README.md", "out-Q8_0.gguf"}
    assert said["command"] == f"ollama create out -f {tmp_path / 'out'}/Modelfile"
    assert said["proof"]["drift"] <= said["proof"]["drift_bound"]
    assert [one.partition(" ")[0] for one in said["unchecked"]] == ["ollama"]
    text = (tmp_path / "out" / "Modelfile").read_text("utf-8")
    assert "FROM ./out-Q8_0.gguf" in text
    assert "<|fim_prefix|>{{ .Prompt }}<|fim_suffix|>{{ .Suffix }}<|fim_middle|>" in text


def test_the_card_says_what_it_is_made_of(run, base, tmp_path):
    done = export(run, tmp_path / "out", to="merged")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    evaluation = json.loads(RunFolder(run).evaluation.read_text("utf-8"))
    assert card.startswith("---\nlicense: other\nlibrary_name: transformers\n")
    assert f"{evaluation['tuned_bits_per_byte']:.4f}" in card
    corpus = json.loads((RunFolder(run).corpus / "summary.json").read_text("utf-8"))
    assert f"{corpus['files_kept']} of {corpus['files_seen']} files of the repository" in card
    assert (
        "`<|fim_prefix|>{code before the cursor}<|fim_suffix|>{code after it}<|fim_middle|>`"
        in card
    )
    assert "in 3 steps" in card
    assert done.proof is not None
    assert done.proof.by in card
    assert "licence is not known here" in card
    assert str(base.parent) not in card  # nothing of this machine's paths
    assert str(tmp_path) not in card


def test_a_drift_leaves_no_folder_and_says_the_numbers(run, tmp_path, monkeypatch):
    monkeypatch.setitem(proof_module.LOGITS_BOUNDS, torch.float32, (1e-9, 1.0))
    with pytest.raises(ExportError, match=r"differ by 0\.\d+%.*not handed over"):
        export(run, tmp_path / "out", to="merged")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_installed_is_said_and_the_export_is_there(run, tmp_path, monkeypatch):
    monkeypatch.setattr(proof_module, "find_spec", lambda name: None)
    done = export(run, tmp_path / "out", to="merged")
    assert done.proof is None
    assert 'pip install "repotune[check]"' in done.unchecked[0]
    assert "Not checked: transformers" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_too_little_memory_for_the_check_is_said(run, tmp_path, monkeypatch):
    monkeypatch.setattr("repotune.stages.reading.SLACK", 1e9)
    done = export(run, tmp_path / "out", to="gguf")
    assert done.proof is None
    assert "nothing was compared" in done.unchecked[0]


def test_a_folder_that_is_taken_is_refused_at_once(run, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        export(run, tmp_path, to="peft")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_wrong_use_is_one_sentence(run, tmp_path, capsys):
    out = ["-o", str(tmp_path / "out")]
    assert main(["export", str(run), "--to", "merged", "--quantisation", "f16", *out]) == 2
    assert "--quantisation is for gguf and ollama" in capsys.readouterr().err
    assert main(["export", str(run), "--to", "onnx", *out]) == 2
    assert "'merged'" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "absent"), "--to", "peft", *out]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_an_adapter_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("adapter"))
    with pytest.raises(RunError, match=r"no adapter yet.*--resume"):
        export(tmp_path / "run", tmp_path / "out", to="peft")


def test_a_kept_checkpoint_is_handed_over(run, tmp_path, capsys):
    """Without the evaluation, which is of the exported step."""
    export(run, tmp_path / "last", to="peft")
    shutil.copytree(run, tmp_path / "run")
    half = RunFolder(tmp_path / "run").checkpoints / "step-000001"
    shutil.copytree(half.with_name("step-000003"), half)
    (half / "digests.json").write_text("{}")
    out = ["--to", "peft", "-o", str(tmp_path / "out")]
    assert main(["export", str(tmp_path / "run"), *out, "--step", "1"]) == 1
    assert "damaged" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "run"), *out, "--step", "2"]) == 1
    assert "no checkpoint of step 2, but those of steps 1, 3" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "run" / "adapter")
    assert main(["export", str(tmp_path / "run"), *out]) == 1
    assert "or take a checkpoint (those of steps 1, 3) with --step" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "run"), *out, "--step", "3"]) == 0
    name = "adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "last" / name).read_bytes()


def test_no_room_is_said_before_anything_is_written(run, tmp_path, monkeypatch):
    full = shutil._ntuple_diskusage(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: full)
    with pytest.raises(DiskFull, match=r"The export takes 0\.05 GB"):
        export(run, tmp_path / "out", to="merged")
    monkeypatch.undo()
    monkeypatch.setattr("repotune.handover.ONE_TENSOR_BYTES", 10**12)
    with pytest.raises(DoesNotFit, match=r"largest tensor takes [\d.]+ GiB of memory"):
        export(run, tmp_path / "out", to="gguf")
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_that_cannot_be_read_is_said_before_the_work(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    RunFolder(tmp_path / "run").evaluation.write_text("{")
    events = []
    with pytest.raises(RunError, match="make it again with `repotune evaluate RUN`"):
        export(tmp_path / "run", tmp_path / "out", to="merged", emit=events.append)
    assert events == []
    assert not (tmp_path / "out").exists()


def test_the_users_own_quantiser_is_used_where_there_is_no_other(run, tmp_path, monkeypatch):
    """A program of that name that leaves the weights in 16 bits: enough to be read and compared."""
    program = tmp_path / "llama-quantize"
    program.write_text('#!/bin/sh\n[ "$3" = Q4_K_M ] && cp "$1" "$2"\n')
    program.chmod(0o755)
    monkeypatch.setattr("repotune.export.quantiser.can_quantise", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: str(program))
    done = export(run, tmp_path / "out", to="gguf", quantisation="q4_k_m")
    assert set(done.files) == {"README.md", "out-Q4_K_M.gguf"}
    assert done.proof is not None
    assert done.proof.same_token > 0.9


def test_a_base_model_that_changed_or_moved_is_refused(run, base, tmp_path):
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rope_theta": 5e5}))
    try:
        with pytest.raises(ModelError, match="not the one that this run was started with"):
            export(run, tmp_path / "out", to="peft")
        base.rename(base.with_name("elsewhere"))
        with pytest.raises(ModelError, match="base model of this run is gone from"):
            export(run, tmp_path / "out", to="peft")
    finally:
        if not base.exists():
            base.with_name("elsewhere").rename(base)
        (base / "config.json").write_text(json.dumps(config))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def starter_run(source_tree, tmp_path_factory):
    config = FineTuningConfig(
        model="starter", output_dir=tmp_path_factory.mktemp("starter") / "run", max_steps=8,
        batch_size=1, gradient_accumulation_steps=1, max_seq_length=256, learning_rate=1e-3,
        warmup_ratio=0.0, evaluate=False, precision="fp32",
    )  # fmt: skip
    return Path(tune(source_tree, config).run)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("to", ["peft", "merged", "ollama"])
def test_the_starter_which_is_a_gguf_file_is_handed_over(to, starter_run, tmp_path):
    done = export(starter_run, tmp_path / "out", to=to)
    assert done.proof is not None
    # fp16 rounds a weight by 2**-12 on average; Q8_0 has 8 bits, and rounds activations too.
    assert done.proof.drift < {"peft": 1e-5, "merged": 2e-3, "ollama": 0.15}[to]
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "license: apache-2.0\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct" in card


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_starters_merged_model_gives_our_logits(starter_run, tmp_path):
    """What is promised: 1e-3 against the adapter in 16 bits, 1e-5 on the merged numbers."""
    export(starter_run, tmp_path / "out", to="merged")
    ref = resolve_model(
        str(tmp_path / "out"), revision=None, offline=True, cache=None, emit=lambda event: None
    )
    lora = LoraSpec(r=1, alpha=1.0, dropout=0.0, target_modules=("q_proj",))
    again = Decoder(open_weights(ref), lora=lora, dtype=torch.float32)
    tuned = tuned_decoder(starter_run)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32
    )
    for ids in passage_ids(load_tokenizer(starter_path())):
        with torch.no_grad():
            logits = theirs(input_ids=torch.tensor(ids)[None]).logits[0]
        assert relative(again.logits(ids, adapted=False), logits) < 1e-5
        assert relative(tuned.logits(ids), logits) < 1e-3


WITHIN = {"f16": 0.005, "q8_0": 0.02, "q4_k_m": 0.06}
"""Bits per byte, through llama.cpp against our fp32 decoder: what the project promises."""


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("quantisation", WITHIN)
def test_bits_per_byte_through_llama_cpp_on_1200_positions(quantisation, starter_run, tmp_path):
    """Teacher forcing: a token each, the prompt cached."""
    export(starter_run, tmp_path / "out", to="gguf", quantisation=quantisation)
    model = tmp_path / "out" / f"out-{quantisation.upper()}.gguf"
    tuned, tokenizer = tuned_decoder(starter_run), load_tokenizer(starter_path())
    rows = windows(tokenizer)
    asked = [(row, at) for row in range(50) for at in range(71, 95)]
    questions = [Question(ids=rows[row][: at + 1].tolist()) for row, at in asked]
    labels = [int(rows[row][at + 1]) for row, at in asked]
    answers = ask(model, questions, scratch=tmp_path).questions
    rare = [place for place, label in enumerate(labels) if label not in answers[place].likely]
    again = ask(model, [questions[place] for place in rare], scratch=tmp_path, likely=49152)
    for place, answer in zip(rare, again.questions, strict=True):
        answers[place] = answer
    ours = [tuned.logits(row).log_softmax(1) for row in rows]
    our_nats = -sum(float(ours[r][at, y]) for (r, at), y in zip(asked, labels, strict=True))
    their_nats = -sum(a.likely[y] for a, y in zip(answers, labels, strict=True))
    assert len(labels) == 1200
    # The bytes are the same on both sides, so the loss stands for bits per byte.
    assert their_nats / our_nats == pytest.approx(1.0, abs=WITHIN[quantisation])


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_greedy_completions_in_f16_are_our_decoders(starter_run, tmp_path):
    """Of 50 prompts, by the file itself and through the door of `serve`."""
    export(starter_run, tmp_path / "out", to="gguf", quantisation="f16")
    tuned, tokenizer = tuned_decoder(starter_run), load_tokenizer(starter_path())
    prompts = [row[:48] for row in windows(tokenizer)]
    answers = ask(
        tmp_path / "out" / "out-F16.gguf",
        [Question(ids=prompt.tolist(), new_tokens=32) for prompt in prompts],
        scratch=tmp_path,
    )
    ours = generate_batch(
        tuned, prompts, max_new_tokens=32, adapted=True,
        stop=lambda _, new: new[-1] in tokenizer.stop_ids,
    )  # fmt: skip
    assert len(prompts) == 50
    same = sum(a.ids == ids for a, ids in zip(answers.questions, ours, strict=True))
    assert same >= 0.95 * 50
    texts = [
        tokenizer.decode([one for one in ids if one not in tokenizer.stop_ids], continuation=True)
        for ids in ours
    ]
    with serve(starter_run, port=0, quantisation="f16") as running:
        served = running.served
        with openai.OpenAI(base_url=f"{served.address}/v1", api_key=served.token) as client:
            written = [
                client.completions.create(
                    model="tuned", prompt=prompt.tolist(), max_tokens=32, temperature=0
                ).choices[0].text
                for prompt in prompts
            ]  # fmt: skip
    # A text may end within a character, which the door leaves out.
    broken = "\N{REPLACEMENT CHARACTER}"
    same = sum(a.rstrip(broken) == b.rstrip(broken) for a, b in zip(written, texts, strict=True))
    assert same >= 0.95 * 50


def windows(tokenizer):
    """Fifty pieces of 96 tokens of code that the run did not see."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    names = ("argparse.py", "difflib.py", "fractions.py", "textwrap.py", "tarfile.py")
    texts = [tokenizer.encode((stdlib / name).read_text("utf-8")) for name in names]
    return [ids[place * 300 :][:96] for ids in texts for place in range(10)]


def tuned_decoder(run):
    job = settle(RunFolder(run).state(), lambda event: None)
    decoder = Decoder(open_weights(job.base), lora=job.lora, dtype=torch.float32)
    load_adapter(RunFolder(run).adapter, decoder.lora_state(), lora=job.lora)
    decoder.refresh()
    return decoder


def relative(got, want):
    return float((got - want).norm() / want.norm())
