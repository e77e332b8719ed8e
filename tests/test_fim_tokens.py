"""A model without fill in the middle is taught it, and every other side can ask it."""

import http.client
import json
import shutil
from pathlib import Path

import numpy as np
import peft
import pytest
import safetensors.torch
import torch
import transformers

from repotune import FineTuningConfig, evaluate, resume, tune
from repotune.corpus import read_documents
from repotune.events import Notice, ignore
from repotune.gguf_file import open_gguf
from repotune.handover import export
from repotune.job import settle
from repotune.llama_cpp import LlamaServer
from repotune.model import Decoder
from repotune.pipeline import Location, complete
from repotune.records import IGNORE, Row
from repotune.runs import RunFolder
from repotune.serve import serve
from repotune.stages import open_tuned
from repotune.tokens import RowStore, load_tokenizer
from repotune.tokens.pieces import Cutter

from .export.tiny import write_model, write_tokenizer
from .stages.jobs import new_run

TOKEN = "a-token-of-the-tests"
VOCAB, GROWN = 265, 272  # bytes, merges and the end of text; four more, in eights
PREFIX, SUFFIX, MIDDLE, END = range(VOCAB, VOCAB + 4)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_model(folder, "llama (tied, bias)", vocab_size=VOCAB, wide=0.3)
    write_tokenizer(folder, specials=("<|endoftext|>",))
    return folder


@pytest.fixture(scope="module")
def run(base, source_tree, tmp_path_factory):
    config = FineTuningConfig(
        model=str(base), output_dir=tmp_path_factory.mktemp("runs") / "run", max_seq_length=128,
        batch_size=2, gradient_accumulation_steps=1, max_steps=4, save_steps=2, learning_rate=1e-2,
        lora_r=4, precision="fp32", eval_max_tokens=1000, fim_tokens="add", fim_rate=0.9,
    )  # fmt: skip
    return Path(tune(source_tree, config).run)


def test_the_end_is_always_a_label(run):
    rows = RowStore(RunFolder(run).tokens)
    counts = dict.fromkeys((PREFIX, SUFFIX, MIDDLE, END), 0)
    for row in (rows[number] for number in range(len(rows))):
        for token in counts:
            counts[token] += int((row.input_ids == token).sum())
        ends = row.input_ids[1:] == END
        assert (row.labels[:-1][ends] == END).all()
    assert rows.summary.fim_documents > 100
    assert set(counts.values()) == {rows.summary.fim_documents}


def test_it_is_loaded_as_it_was_trained(run):
    before = json.loads(RunFolder(run).evaluation.read_text(encoding="utf-8"))
    again = evaluate(run)
    assert again.tuned_bits_per_byte == before["tuned_bits_per_byte"]
    assert again.base_bits_per_byte == before["base_bits_per_byte"]


def test_a_resumed_run_trains_the_same_rows(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    shutil.rmtree(folder.checkpoints / "step-000004")
    shutil.rmtree(folder.adapter)
    assert resume(folder.path).steps == 4
    name = "adapter_model.safetensors"
    first, again = (
        safetensors.torch.load_file(one.adapter / name) for one in (RunFolder(run), folder)
    )
    assert first.keys() == again.keys()
    assert any(name.endswith("embed_tokens.token_adapter.trainable_tokens_delta") for name in first)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_model_that_has_its_own_tokens_keeps_them_and_says_so(tiny_model, source_tree, tmp_path):
    events = []
    state = new_run(tmp_path / "run", source_tree, tiny_model, fim_tokens="add").state()
    job = settle(state, events.append)
    assert job.lora.trainable_token_indices == ()
    assert job.shape.vocab_size == 600
    (said,) = [one.message for one in events if isinstance(one, Notice)]
    assert "its own tokens for fill in the middle" in said


def test_a_place_between_code_is_completed_by_both(run, source_tree):
    """The base sees what stands before it, in no tokens that it was not taught."""
    path = source_tree / "json" / "decoder.py"
    done = complete(run, Location(path, 20, None), max_new_tokens=4)
    assert done.truth
    assert done.base != done.tuned


def test_peft_gets_rows_tokenizer_and_the_line_that_makes_room(run, base, tmp_path):
    done = export(run, tmp_path / "out", to="peft")
    assert {"adapter_config.json", "tokenizer.json", "tokenizer_config.json"} <= set(done.files)
    assert done.command.startswith(f"base.resize_token_embeddings({GROWN}); PeftModel.")
    assert done.proof is not None
    # What no token has is drawn by transformers, closely around our mean.
    assert done.proof.drift < 1e-3
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(GROWN)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer.encode("<|fim_prefix|>x<|fim_suffix|>y<|fim_middle|>", return_tensors="pt")
    assert ids[0, 0] == PREFIX
    with torch.no_grad():
        assert theirs(input_ids=ids).logits.isfinite().all()


def test_transformers_gets_one_model_and_stops_at_the_end(run, tmp_path):
    done = export(run, tmp_path / "out", to="merged")
    assert done.proof is not None
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == GROWN
    assert END in model.generation_config.eos_token_id
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "`<|fim_suffix|>{code after it}<|fim_prefix|>{code before the" in card
    # Tuned again, it is a model with tokens of its own.
    own = load_tokenizer(tmp_path / "out")
    assert own.fim is not None
    assert own.fim.ids == {PREFIX, SUFFIX, MIDDLE, END}
    assert load_tokenizer(tmp_path / "out", add_fim=True).added_ids == ()


def test_llama_cpp_gets_their_ids(run, tmp_path):
    done = export(run, tmp_path / "out", to="gguf", quantisation="f16")
    assert done.proof is not None
    assert done.proof.drift < 0.01
    file = tmp_path / "out" / "out-F16.gguf"
    metadata = open_gguf(file).metadata
    assert len(metadata["tokenizer.ggml.tokens"]) == GROWN
    assert [metadata[f"tokenizer.ggml.fim_{key}_token_id"] for key in ("pre", "suf", "mid")] == [
        PREFIX, SUFFIX, MIDDLE,
    ]  # fmt: skip
    with LlamaServer(file, context=256, slots=1, scratch=tmp_path) as server:
        # llama.cpp's own /infill, which it refuses for a file without such ids.
        first, second, again = (
            infill(server.address, server.key, suffix)
            for suffix in ("\n    return total\n", ")\n\nclass Reader:\n", "\n    return total\n")
        )
    assert first == again
    assert first != second


def test_an_editor_gets_what_stands_between(run):
    """The base, which was taught nothing, is asked from left to right."""
    with serve(run, which="both", port=0, token=TOKEN) as running:
        tuned, untaught = running.served.trials
        assert tuned.suffix
        assert untaught.suffix is None
        assert running.served.settings
        first = infill(running.served.address, TOKEN, "\n    return total\n")
        second = infill(running.served.address, TOKEN, ")\n\nclass Reader:\n    pass\n")
        assert first != second  # the suffix has an influence
        assert first == infill(running.served.address, TOKEN, "\n    return total\n")


def infill(address, key, suffix):
    """Drawn, since the most likely token of so small a model is a space whatever follows."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    body = {
        "input_prefix": "def mean(values):\n    ", "input_suffix": suffix, "temperature": 1,
        "seed": 1, "n_predict": 24, "model": "tuned",
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", "/infill", json.dumps(body), headers)
    response = connection.getresponse()
    content = json.loads(response.read())
    connection.close()
    assert response.status == 200
    return content["content"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_starter_learns_it_and_answers_through_llama_cpp(source_tree, tmp_path):
    """The whole chain; rows of the held-out files, cut as in training, cost less than before."""
    config = FineTuningConfig(
        model="starter", output_dir=tmp_path / "run", max_steps=16, batch_size=2,
        gradient_accumulation_steps=1, max_seq_length=256, learning_rate=2e-3, evaluate=False,
        precision="fp32", fim_tokens="add", fim_rate=0.9,
    )  # fmt: skip
    run = RunFolder(Path(tune(source_tree, config).run))
    job, tuned = open_tuned(run, ignore)
    documents = read_documents(run.corpus, "heldout")
    cutter = Cutter(job.tokenizer, 256, 1.0, seed=0)
    pieces = [piece.ids for piece in cutter.cut(documents).pieces if piece.fim][:12]
    fresh = Decoder(job.weights(), lora=job.lora, dtype=torch.float32)
    before, after = (sum(end_nats(one, ids) for ids in pieces) for one in (fresh, tuned))
    assert after < 0.8 * before  # 18 nats to 5 in 30 steps
    export(run.path, tmp_path / "out", to="gguf", quantisation="f16")
    with serve(run.path, port=0, token=TOKEN, quantisation="f16") as running:
        assert running.served.trials[0].suffix
        answers = {
            infill(running.served.address, TOKEN, text) for text in ("\n    return total\n", ")\n")
        }
    assert len(answers) == 2


def end_nats(decoder, ids):
    """The loss of the token that ends the middle."""
    labels = np.append(ids[1:], IGNORE)
    labels[labels != decoder.lora.trainable_token_indices[3]] = IGNORE
    row = Row(input_ids=ids, labels=labels, starts=np.array([0]))
    return float(decoder.token_losses(row, adapted=True).sum())
