"""What a GPU without the fused operations needs: bytes against those that PyTorch counts on a CPU.

The same operations run there, but for the kernel below ``scaled_dot_product_attention``; its own
buffers on a GPU (fp32 dq, statistics) are in the formula and not in the measurement.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from repotune.kernels import PLAIN, PLAIN_GPU
from repotune.kernels.attention import Documents, attention, attention_backward
from repotune.model import Decoder
from repotune.planning import Setup, choose_policy, gpu_target, memory, speed
from repotune.planning.fit import fit, setup_of
from repotune.planning.policy import LEVELS, needed_bytes
from repotune.records import IGNORE, Row, Shape
from repotune.tables import find_gpu

from .setups import LORA, MEASURED_H100, SHAPE, RandomWeights, policy, setup

LAYERS, TOKENS = 2, 512
SMALL = Shape(
    model_type="llama", vocab_size=1000, hidden_size=512, intermediate_size=1408,
    num_hidden_layers=LAYERS, num_attention_heads=8, num_key_value_heads=8, head_dim=64,
    rms_norm_eps=1e-5, rope_theta=1e4, rope_scaling=None, max_position_embeddings=2048,
    tie_word_embeddings=False, qkv_bias=False, o_bias=False, mlp_bias=False,
)  # fmt: skip
GROUPED = replace(SMALL, num_key_value_heads=2, intermediate_size=1024, vocab_size=3000)
WORDY = replace(SMALL, hidden_size=256, num_attention_heads=4, num_key_value_heads=4,
                vocab_size=20_000)  # fmt: skip


def counted(work):
    """The most bytes at once that ``work()`` takes, and what it leaves behind."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return int(held.max()), int(held[-1])


@pytest.mark.parametrize("saving", LEVELS)
@pytest.mark.parametrize("use_4bit", [True, False])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    ("shape", "starts"), [(SMALL, (0,)), (GROUPED, (0, 100, 400)), (WORDY, (0,))]
)
def test_a_pass_takes_what_the_formula_says(shape, starts, deterministic, saving, use_4bit):
    ids = np.random.default_rng(0).integers(0, shape.vocab_size, TOKENS)
    row = Row(input_ids=ids, labels=np.append(ids[1:], IGNORE), starts=np.array(starts))
    levels = policy(saving, layers=LAYERS)
    decoder = Decoder(
        RandomWeights(shape), lora=LORA, dtype=torch.bfloat16,
        ops=PLAIN if deterministic else PLAIN_GPU, use_4bit=use_4bit,
    )  # fmt: skip

    def one_pass():
        decoder.loss_and_grad(row, scale=1.0, policy=levels, dropout_seed=None)

    _, kept = counted(one_pass)
    peak, left = counted(one_pass)
    assert left < 1000  # the second pass writes where the first did
    one = Setup(
        shape=shape, lora=LORA, tokens=TOKENS, itemsize=2, device="cuda", use_4bit=use_4bit,
        documents=len(starts), longest=int(np.diff([*starts, TOKENS]).max()), plain=True,
        deterministic=deterministic,
    )  # fmt: skip
    buffers = memory.scratch_bytes(one, frozenset({saving})) + memory.saved_bytes(one, levels)
    buffers += memory.dequantised_bytes(one)
    assert buffers == pytest.approx(kept, rel=0.01)
    planned = buffers + memory.attention_bytes(one)
    assert kept + peak <= 1.001 * planned
    # Beyond it stand the GPU kernel's own buffers.
    assert planned < 1.07 * (kept + peak)


def test_older_cards_get_plain_operations_and_newer_ones_the_fused():
    assert [
        gpu_target(find_gpu(name).gpu).fused
        for name in ("T4", "V100", "P100 PCIe", "Quadro M4000", "RTX 2080 Ti", "RTX 3060", "H100")
    ] == [False, False, False, False, False, True, True]


def test_the_plan_of_a_gpu_in_fp32_is_of_plain_operations():
    from repotune.config import FineTuningConfig

    target = gpu_target(find_gpu("RTX 3060").gpu)
    config = FineTuningConfig()
    assert not setup_of(SHAPE, config, target).plain
    assert setup_of(SHAPE, config.merged({"precision": "fp32"}), target).plain
    without_triton = replace(target, fused=False)
    assert setup_of(SHAPE, config, without_triton).plain
    small = config.merged({"batch_size": 1, "max_seq_length": 512})
    fused, plain = fit(SHAPE, small, target), fit(SHAPE, small, without_triton)
    assert plain.peak.expected > fused.peak.expected
    assert not setup_of(SHAPE, config, replace(target, device="cpu")).plain


def test_documents_bound_what_plain_attention_takes():
    rows = replace(setup(8192), plain=True, longest=2048)
    assert memory.attention_bytes(rows) < memory.attention_bytes(replace(rows, longest=None))
    assert needed_bytes(rows) > needed_bytes(replace(rows, plain=False))
    free = int(1.1 * needed_bytes(rows))
    assert choose_policy(rows, free_bytes=free, gradient_checkpointing=True).layers


def test_plain_operations_take_longer_and_are_not_recorded():
    fused, one = setup(1024), policy("all")
    plain = replace(fused, plain=True)
    assert speed.is_graphed(fused, one)
    assert not speed.is_graphed(plain, one)
    before, after = (
        speed.step_seconds(each, one, MEASURED_H100, row_tokens=1024) for each in (fused, plain)
    )
    norms = 4 * 1024 * 2 * fused.shape.num_hidden_layers * fused.shape.hidden_size
    bandwidth = MEASURED_H100.bandwidth
    assert after.elementwise == pytest.approx(
        speed.PLAIN_TRAFFIC * (before.elementwise + norms / bandwidth)
    )
    assert after.attention == pytest.approx(before.attention * 4.5 / 3.5)
    # 22.5 bytes a number for 2.5
    assert after.dequantisation == pytest.approx(8.94 * before.dequantisation, rel=0.01)
    assert after.micro_batch > 2 * before.micro_batch
    # A layer's matrices are 49 pieces of 2^22 numbers.
    assert speed.plain_operations(plain) == 183 + 2 * (7 * 5 + 4 * 49)
    # Deterministic, attention is not computed again, and goes by 8 blocks of queries and one more.
    exact = replace(plain, deterministic=True)
    step = speed.step_seconds(exact, one, MEASURED_H100, row_tokens=1024)
    assert step.attention == pytest.approx(before.attention)
    assert speed.plain_operations(exact) == speed.plain_operations(plain) + 25 * 9


def test_block_operations_are_those_that_attention_calls():
    # As ``kernels.heads`` gives them: heads lie side by side.
    heads = [torch.randn(256, 2, *size).transpose(0, 1) for size in ((1, 16), (16,), (16,))]

    def calls(tokens):
        q, k, v = (one[:, :tokens] for one in heads)
        documents = Documents(
            slices=(slice(0, tokens),), bounds=torch.tensor([0, tokens], dtype=torch.int32),
            longest=tokens, window=None,
        )  # fmt: skip
        with Counting() as counting:
            attended = attention(q, k, v, documents, torch.empty_like(q))
            attention_backward(torch.empty_like(q), q, k, v, attended, documents)
        return counting.calls

    assert calls(256) - calls(128) == speed.BLOCK_OPERATIONS


class Counting(TorchDispatchMode):
    """Counts operations that launch something on a GPU: views and empty tensors do not."""

    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.calls += not (function.is_view or name in ("empty", "empty_like", "empty_strided"))
        return result
