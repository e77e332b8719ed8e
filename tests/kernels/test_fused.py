"""The table for NVIDIA GPUs against the plain one in fp32 or fp64, with sizes nothing divides.

Both get the same numbers: those of the fast table's precision, widened for the plain one.
"""

from itertools import accumulate, pairwise

import pytest
import torch

from repotune.kernels import PLAIN, Buffers, Documents, Heads
from repotune.kernels.nf4 import AdapterBlock, quantise
from repotune.records import IGNORE

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
# fp32: other orders of summation and the GPU's own exp; bf16 and fp16: 8 and 11 bits, rounded once
# or twice more
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}
# probabilities and what each matmul gives are rounded
ATTENTION = {torch.bfloat16: 1e-2, torch.float16: 2e-3}
# the logits are rounded before exp
LOSSES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
EPS = 1e-5
T = 37


@pytest.fixture(params=list(TOLERANCES), ids=str)
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def fused():
    from repotune.kernels.triton.table import fused_ops

    return fused_ops()


def relative(got, want):
    got, want = got.double(), want.double()
    return float((got - want).norm() / want.norm())


def normal(*size, dtype, seed=0):
    """The same numbers on every GPU."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=g).to(dtype).to(CUDA)


def inside(like):
    """A copy within a wider buffer that holds NaN, as in the padded input of a linear."""
    rows, columns = like.shape
    return like.new_full((rows, columns + 27), float("nan"))[:, :columns].copy_(like)


def empty(rows, columns, dtype):
    return inside(torch.full((rows, columns), float("nan"), dtype=dtype, device=CUDA))


def untouched(view):
    """Whether the columns behind a view of ``inside`` are still NaN."""
    rows, columns = view.shape
    beyond = view.as_strided((rows, 27), view.stride(), view.storage_offset() + columns)
    return bool(beyond.isnan().all())


@pytest.mark.parametrize("width", [21, 577, 4101])
@pytest.mark.parametrize("adds", [False, True], ids=["x", "x + add"])
def test_rms_norm(fused, dtype, width, adds):
    x, add = inside(normal(T, width, dtype=dtype)), normal(T, width, dtype=dtype, seed=1)
    w = normal(width, dtype=dtype, seed=2)
    out, total = empty(T, width, dtype), empty(T, width, dtype)
    more = {"add": add, "total": total} if adds else {}
    rstd = fused.rms_norm(x, w, EPS, out, **more)
    wide = x + add if adds else x  # rounded to the precision, as what the next layer reads
    want = torch.empty(T, width, device=CUDA)
    want_rstd = PLAIN.rms_norm(wide.float(), w.float(), EPS, want)
    assert relative(out, want) < TOLERANCES[dtype]
    assert rstd.shape == (T, 1)
    assert relative(rstd, want_rstd) < TOLERANCES[torch.float32]
    assert untouched(out)
    if adds:
        assert torch.equal(total, wide)
        assert untouched(total)


@pytest.mark.parametrize("width", [21, 577, 4101])
@pytest.mark.parametrize("in_place", [False, True])
def test_rms_norm_backward(fused, dtype, width, in_place):
    dy, x, residual = (inside(normal(T, width, dtype=dtype, seed=i)) for i in range(3))
    w = normal(width, dtype=dtype, seed=3)
    wide = [one.float() for one in (dy, x, w, residual)]
    rstd = PLAIN.rms_norm(wide[1], wide[2], EPS, torch.empty(T, width, device=CUDA))
    want = torch.empty(T, width, device=CUDA)
    PLAIN.rms_norm_backward(*wide[:3], rstd, wide[3], want)
    dx = residual if in_place else empty(T, width, dtype)
    fused.rms_norm_backward(dy, x, w, rstd, residual, dx)
    assert relative(dx, want) < TOLERANCES[dtype]
    assert untouched(dx)


@pytest.mark.parametrize("width", [13, 2048, 4101])
def test_swiglu_and_its_backward(fused, dtype, width):
    gu, dy = (
        inside(normal(T, 2 * width, dtype=dtype)),
        inside(normal(T, width, dtype=dtype, seed=1)),
    )
    want_gu, want_dy = gu.float(), dy.float()
    want, out = torch.empty(T, width, device=CUDA), empty(T, width, dtype)
    PLAIN.swiglu(want_gu, want)
    fused.swiglu(gu, out)
    assert relative(out, want) < TOLERANCES[dtype]
    assert untouched(out)
    PLAIN.swiglu_backward(want_dy, want_gu)
    fused.swiglu_backward(dy, gu)
    assert relative(gu, want_gu) < TOLERANCES[dtype]
    assert relative(dy, want_dy) < TOLERANCES[dtype]
    assert untouched(gu)
    assert untouched(dy)


HEADS = [Heads(kv=2, group=3, width=10), Heads(kv=5, group=1, width=24)]


def angles(width, dtype):
    angle = normal(T, 1, width // 2, dtype=torch.float32, seed=7) * 3
    return angle.cos().to(dtype), angle.sin().to(dtype)


def columns(heads):
    return heads.queries + 2 * heads.keys


@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_rotate_is_in_place(fused, dtype, heads):
    assert fused.rotates_in_place
    stack = inside(normal(T, columns(heads), dtype=dtype))
    cos, sin = angles(heads.width, dtype)
    buffers = Buffers(torch.float32, CUDA)
    want = PLAIN.rotate(stack.float(), cos.float(), sin.float(), heads, buffers)
    got = fused.rotate(stack, cos, sin, heads, Buffers(dtype, CUDA))
    for one, other, part in zip(got, want, heads.split(stack), strict=True):
        assert one.shape == other.shape
        assert one.data_ptr() == part.data_ptr()
        assert relative(one, other) < TOLERANCES[dtype]
    assert untouched(stack)


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("by_token", [False, True], ids=["by head", "by token"])
def test_rotate_back(fused, dtype, heads, by_token):
    gradients = [
        one.contiguous() for one in heads.split(normal(T, columns(heads), dtype=dtype, seed=1))
    ]
    cos, sin = angles(heads.width, dtype)
    want = torch.empty(T, columns(heads), device=CUDA)
    wide = [one.float() for one in gradients]
    PLAIN.rotate_back(*wide, cos.float(), sin.float(), heads, want)
    if by_token:  # the strides in which flash attention gives them
        gradients = [one.transpose(0, 1).contiguous().transpose(0, 1) for one in gradients]
    got = empty(T, columns(heads), dtype)
    fused.rotate_back(*gradients, cos, sin, heads, got)
    assert relative(got, want) < TOLERANCES[dtype]
    assert untouched(got)


def packed(lengths, window):
    bounds = [0, *accumulate(lengths)]
    return Documents(
        slices=tuple(slice(*pair) for pair in pairwise(bounds)),
        bounds=torch.tensor(bounds, dtype=torch.int32, device=CUDA),
        longest=max(lengths),
        window=window,
    )


@pytest.mark.parametrize("half", list(ATTENTION), ids=str)
@pytest.mark.parametrize("deterministic", [False, True], ids=["fastest", "deterministic"])
@pytest.mark.parametrize("heads", [Heads(2, 3, 40), Heads(3, 1, 64)], ids=str)
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize(
    "lengths", [(301,), (77, 77, 77), (1, 70, 1, 131, 1), (1, 1, 1), (128, 5)], ids=str
)
def test_attention_of_documents(half, deterministic, heads, window, lengths):
    from repotune.kernels.triton.table import fused_ops

    ops, documents = fused_ops(deterministic=deterministic), packed(lengths, window)
    tokens = sum(lengths)
    # views of the stack's output and of the gradient of o's input, as a layer hands them over
    q, k, v = heads.split(normal(tokens, columns(heads), dtype=half))
    do = heads.of_queries(normal(tokens, heads.queries, dtype=half, seed=1))
    wide = [one.double() for one in (q, k, v, do)]
    want = PLAIN.attention(*wide[:3], documents, torch.empty_like(wide[0]))
    # as the padded input of o
    wider = torch.full((tokens, heads.queries + 64), float("nan"), device=CUDA)
    out = heads.of_queries(wider.to(half)[:, : heads.queries])
    attended = ops.attention(q, k, v, documents, out)
    assert attended.out.shape == want.out.shape
    assert relative(attended.out, want.out) < ATTENTION[half]
    want_dq, want_dk, want_dv = PLAIN.attention_backward(wide[3], *wide[:3], want, documents)
    dq, dk, dv = ops.attention_backward(do, q, k, v, attended, documents)
    assert [one.shape for one in (dq, dk, dv)] == [one.shape for one in (q, k, v)]
    assert relative(dv, want_dv) < ATTENTION[half]
    if documents.longest == 1:  # probabilities do not depend on q and k: only rounding is left
        assert float(dq.abs().max()) < 0.1
        assert float(dk.abs().max()) < 0.1
    else:
        assert relative(dq, want_dq) < ATTENTION[half]
        assert relative(dk, want_dk) < ATTENTION[half]


def loss_case(dtype, *, tokens, vocabulary):
    width = 48
    x = normal(tokens, width, dtype=dtype)
    head = normal(vocabulary, width, dtype=torch.float32, seed=1) * 0.3
    g = torch.Generator().manual_seed(2)
    labels = torch.randint(0, vocabulary, (tokens,), generator=g)
    labels[::3] = IGNORE
    labels[-1] = vocabulary - 1
    return x, head.to(dtype), labels.to(CUDA)


# a single short chunk; a vocabulary of one and a bit of the kernel's blocks; a short last chunk
CASES = [(29, 97), (29, 5003), (2 * 1024 + 77, 1003)]


@pytest.mark.parametrize(("tokens", "vocabulary"), CASES)
def test_cross_entropy(fused, dtype, tokens, vocabulary):
    x, head, labels = loss_case(dtype, tokens=tokens, vocabulary=vocabulary)
    scale, wide = torch.tensor(0.3, device=CUDA), Buffers(torch.float32, CUDA)
    want_dx, dx = torch.empty_like(x, dtype=torch.float32), torch.full_like(x, float("nan"))
    want = PLAIN.cross_entropy(
        x.float(), head.float(), labels, scale=scale, dx=want_dx, buffers=wide
    )
    loss = fused.cross_entropy(x, head, labels, scale=scale, dx=dx, buffers=Buffers(dtype, CUDA))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(want), rel=LOSSES[dtype] / 10)
    assert relative(dx, want_dx) < LOSSES[dtype]
    assert not dx[labels == IGNORE].any()


def test_a_scale_beyond_fp16_is_an_overflow_and_no_other_number(fused):
    x, head, labels = loss_case(torch.float16, tokens=29, vocabulary=97)
    dx, buffers = torch.empty_like(x), Buffers(torch.float16, CUDA)
    factor = torch.tensor(2.0**40, device=CUDA)
    loss = fused.cross_entropy(x, head, labels, scale=factor, dx=dx, buffers=buffers)
    assert loss.isfinite()
    assert not dx[labels != IGNORE].isfinite().all()
    assert not dx[labels == IGNORE].any()


@pytest.mark.parametrize("half", list(ATTENTION), ids=str)
def test_a_product_is_added_in_fp32(fused, half):
    left, right = normal(33, T, dtype=half), normal(T, 16, dtype=half, seed=1)
    total = torch.ones(33, 16, device=CUDA)
    want = total.double() + 0.5 * left.double() @ right.double()
    fused.add_product(total, left, right, 0.5)
    assert relative(total, want) < 5e-5  # rounded to 11 bits it would be 2e-4


STACKS = {
    "one": (16, [2070], 5),
    "two of 1,000 tokens": (16, [1301, 1515], 1000),
    "three, padded ranks": (3, [2040, 8, 8], 37),
    "a rank that matmuls take": (72, [2048], 37),
    "narrow": (16, [301, 515], 100),
}


@pytest.mark.parametrize("half", list(ATTENTION), ids=str)
@pytest.mark.parametrize(("rank", "outs", "tokens"), STACKS.values(), ids=STACKS)
def test_adapter_gradients(fused, half, rank, outs, tokens):
    ranks, outputs = -(-rank * len(outs) // 8) * 8, sum(outs)
    dy, tail = normal(tokens, outputs, dtype=half), normal(tokens, ranks, dtype=half, seed=1)
    wide = torch.zeros(outputs, 40 + ranks, dtype=half, device=CUDA)
    b, blocks, wants = wide[:, 40:], [], []
    for i, rows in enumerate(slice(*pair) for pair in pairwise([0, *accumulate(outs)])):
        columns = slice(i * rank, (i + 1) * rank)
        b[rows, columns] = normal(rows.stop - rows.start, rank, dtype=half, seed=i)
        total = torch.ones(rows.stop - rows.start, rank, device=CUDA)
        wants.append(total.double() + dy[:, rows].t().double() @ tail[:, columns].double())
        blocks.append(AdapterBlock(rows, columns, total))
    g = empty(tokens, ranks, half)
    fused.adapter_gradients(inside(dy), b, inside(tail), blocks, g)
    assert relative(g, dy.double() @ b.double()) < TOLERANCES[half]
    assert untouched(g)
    for block, want in zip(blocks, wants, strict=True):
        assert relative(block.values, want) < 5e-5  # rounded to 11 bits it would be 2e-4


@pytest.mark.parametrize("half", list(ATTENTION), ids=str)
@pytest.mark.parametrize(
    ("ranks", "width", "tokens"), [(48, 2101, 1000), (3, 2048, 5), (48, 577, 37), (136, 2048, 37)]
)
def test_a_product_with_a_norm_that_nobody_writes(fused, half, ranks, width, tokens):
    g, x = normal(tokens, ranks, dtype=half), normal(tokens, width, dtype=half, seed=1)
    w, total = normal(width, dtype=half, seed=2), torch.ones(ranks, width, device=CUDA)
    normed = torch.empty(tokens, width, dtype=torch.float64, device=CUDA)
    rstd = PLAIN.rms_norm(x.double(), w.double(), EPS, normed)
    want = total.double() + 0.5 * g.double().t() @ normed
    fused.add_normed_product(total, inside(g), inside(x), rstd.float(), w, 0.5)
    assert relative(total, want) < TOLERANCES[half]


@pytest.mark.parametrize(("tokens", "vocabulary"), CASES)
def test_token_losses(fused, dtype, tokens, vocabulary):
    x, head, labels = loss_case(dtype, tokens=tokens, vocabulary=vocabulary)
    want = PLAIN.token_losses(x.float(), head.float(), labels, Buffers(torch.float32, CUDA))
    losses = fused.token_losses(x, head, labels, Buffers(dtype, CUDA))
    assert losses.dtype == torch.float32
    assert relative(losses, want) < LOSSES[dtype]
    assert not losses[labels == IGNORE].any()


def test_a_row_without_labels_costs_nothing(fused, dtype):
    x, head, labels = loss_case(dtype, tokens=29, vocabulary=97)
    labels.fill_(IGNORE)
    dx = torch.full_like(x, float("nan"))
    one, buffers = torch.ones((), device=CUDA), Buffers(dtype, CUDA)
    loss = fused.cross_entropy(x, head, labels, scale=one, dx=dx, buffers=buffers)
    assert float(loss) == 0.0
    assert not dx.any()


def test_an_impossible_label_has_a_finite_loss(fused, dtype):
    x = torch.ones(1, 16, dtype=dtype, device=CUDA)
    head = torch.full((16, 16), -32.0, dtype=dtype, device=CUDA)
    head[0] = 32.0  # logits of 512 and -512
    labels = torch.tensor([1], device=CUDA)
    losses = fused.token_losses(x, head, labels, Buffers(dtype, CUDA))
    assert float(losses) == pytest.approx(1024.0)


@pytest.mark.parametrize("size", [(1, 64), (7, 192), (64, 33), (33, 1024), (1000, 576)], ids=str)
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dequantising_is_bit_identical(fused, size, out_dtype):
    weight = normal(*size, dtype=torch.float32) * 0.02
    weight[0, : min(64, size[1])] = 0.0
    quantised = quantise(weight)
    want = torch.empty(size, dtype=out_dtype, device=CUDA)
    PLAIN.dequantise(quantised, want)
    got = empty(*size, out_dtype)
    fused.dequantise(quantised, got)
    assert torch.equal(got, want)
    assert untouched(got)


@pytest.mark.parametrize(
    "places",
    [[(0, 40), (40, 24), (64, 17)], [(0, 40), (64, 17)], [(40, 24)], []],
    ids=["all", "first and last", "middle", "none"],
)
@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float16])
def test_placing_an_adapter_is_bit_identical(fused, places, out_dtype):
    outputs, width, rank = 81, 320, 5
    ranks = rank * len(places)
    a = normal(ranks, width, dtype=out_dtype)
    blocks = [
        AdapterBlock(
            slice(start, start + rows), slice(i * rank, (i + 1) * rank),
            normal(rows, rank, dtype=torch.float32, seed=i),
        )
        for i, (start, rows) in enumerate(places)
    ]  # fmt: skip
    got, want = (torch.full((128, 384), 7.0, dtype=out_dtype, device=CUDA) for _ in range(2))
    fused.place_adapter(a, blocks, outputs, got)
    PLAIN.place_adapter(a, blocks, outputs, want)
    assert torch.equal(got, want)
