"""What the model card says, and what it leaves out where nothing is known."""

from dataclasses import replace

from repotune.export.card import CardFacts, model_card
from repotune.records import Compared, CorpusSummary, Evaluation, Interval, Proof

from .tiny import SPEC

FACTS = CardFacts(
    name="shop-tuned", base="codellama/CodeLlama-7b-hf", revision="abc123", licence="llama2",
    format="gguf", quantisation="q4_k_m", lora=SPEC, steps=1200,
    corpus=CorpusSummary(
        files_seen=120, files_kept=100, files_train=90, files_heldout=10, bytes_kept=2_500_000,
        dropped={"binary": 20}, languages={"Python": 70, "C": 30}, secrets_replaced={"aws": 2},
        fingerprint="",
    ),
    evaluation=Evaluation(
        files=10, files_available=10, tokens=30_000, bytes_scored=90_000, base_bits_per_byte=0.9,
        tuned_bits_per_byte=0.75, difference=Interval(value=-0.15, low=-0.2, high=-0.1),
        cursors=20, exact_match={"base": 0.25, "tuned": 0.5},
        edit_similarity={"base": 0.5, "tuned": 0.75}, completions=(), sampled="",
        infill={
            "exact_match": Compared(base=0.125, tuned=0.375, count=18, difference=None),
            "stop_rate": Compared(base=1.0, tuned=0.5, count=18, difference=None),
        },
    ),
    fim="▁<PRE>{before} ▁<SUF>{after} ▁<MID>", stops=("</s>", "▁<EOT>"),
    command="llama-server -m x",
    proof=Proof(
        by="llama.cpp", positions=125, drift=0.25, drift_bound=0.6, same_token=0.9, nats=0.78,
        their_nats=0.8, loss_bound=0.15, adapter_share=1.02,
    ),
    unchecked=("ollama itself did not read it.",),
)  # fmt: skip


def test_it_says_where_it_comes_from_what_it_learned_and_how_well():
    card = model_card(FACTS)
    assert card.startswith(
        "---\nlicense: llama2\nbase_model: codellama/CodeLlama-7b-hf\nlibrary_name: gguf\n"
    )
    for said in (
        "a GGUF file in Q4_K_M", "revision abc123", "rank 4, alpha 8", "1,200 steps",
        "100 of 120 files of the repository (2.5 MB): 90 to train on, 10 held out",
        "Python 70, C 30", "2 secrets were replaced",
        "| bits per byte | 0.9000 | 0.7500 |", "| next line, exact | 25.0% | 50.0% |",
        "| gap filled, exact | 12.5% | 37.5% |",
        "| gap filled, stopped by itself | 100.0% | 50.0% |",
        "95 % interval: -0.2000 to -0.1000",
        "`▁<PRE>{before} ▁<SUF>{after} ▁<MID>`", "It stops at `</s>`, `▁<EOT>`.",
        "logits differ by 25.00% (relative L2; bound 60%)",
        "Not checked: ollama itself did not read it.", "The base model is under llama2",
    ):  # fmt: skip
        assert said in card, said


def test_what_is_not_known_is_said_so():
    facts = replace(
        FACTS, base="my-model", revision=None, licence=None, format="peft", steps=None,
        corpus=None, evaluation=None, fim=None, proof=None,
    )  # fmt: skip
    card = model_card(facts)
    assert card.startswith("---\nlicense: other\nlibrary_name: peft\n")
    for said in (
        "corpus of the run is no longer there", "Not evaluated", "completes from left to right",
        "licence is not known here", "a LoRA adapter in PEFT's format",
    ):  # fmt: skip
        assert said in card, said
    assert "differ by" not in card
