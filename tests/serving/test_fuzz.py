"""Whatever is written to the door, it answers what is wrong by 4xx, and goes on."""

import json
import random

import pytest

from repotune.export import write_model
from repotune.llama_cpp import LlamaServer
from repotune.model import open_weights
from repotune.records import ModelRef
from repotune.serving import ServedModel, Upstream
from repotune.tokens import gguf_metadata
from repotune.tokens.gguf_metadata import CHAT_TEMPLATE

from .stub import TOKEN, Stub, exchange, get, opened, running, served

PATHS = ("/v1/completions", "/infill", "/v1/chat/completions", "/v1/models", "/health", "/",
         "/beta/completions", "/../etc/passwd", "/v1/completions?x=%00")  # fmt: skip
FIELDS = ("prompt", "suffix", "model", "max_tokens", "temperature", "top_p", "top_k", "min_p",
          "seed", "stop", "stream", "stream_options", "n", "echo", "logprobs", "messages",
          "input_prefix", "input_suffix", "input_extra", "n_predict", "samplers", "n_indent",
          "t_max_prompt_ms", "max_completion_tokens", "presence_penalty",
          "cache_prompt")  # fmt: skip
TEXTS = ("", "x = 1\n", "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "\ud800", "\0", "한글🙂",
         "user", "top_k", "9" * 5000, "a" * 3000)  # fmt: skip


def value(random_, depth=0):
    kind = random_.randrange(9 if depth < 4 else 6)
    if kind == 0:
        return random_.choice((None, True, False))
    if kind == 1:
        return random_.choice((0, 1, -1, 2**31, 2**63, 10**400, -(10**30), random_.randrange(600)))
    if kind == 2:
        return random_.choice((0.0, 0.5, -1e308, 1e308, 1e-320))
    if kind in (3, 4, 5):
        return random_.choice(TEXTS)
    if kind in (6, 7):
        return [value(random_, depth + 1) for _ in range(random_.randrange(4))]
    keys = ("role", "content", "text", "filename", "include_usage", "type")
    return {random_.choice(keys): value(random_, depth + 1) for _ in range(random_.randrange(4))}


def body(random_):
    content = {random_.choice(FIELDS): value(random_) for _ in range(random_.randrange(6))}
    if random_.random() < 0.3:
        content = {"input_prefix": "x", "messages": [{"role": "user", "content": "x"}]}
    if random_.random() < 0.5:
        content["prompt"] = random_.choice(TEXTS)
    data = json.dumps(content).encode()
    change = random_.random()
    if change < 0.1:  # not JSON any more
        place = random_.randrange(len(data) + 1)
        data = data[:place] + random_.randbytes(random_.randrange(8)) + data[place + 1 :]
    elif change < 0.13:
        data = random_.choice((b"[" * 50_000, b"", b"null", b"{}" * 10, b"1e999", b"NaN"))
    return data


def request(random_):
    """Bytes, and whether they are a whole request: most are, some have a head that is damaged."""
    data = body(random_)
    lines = [f"{random_.choice(('POST',) * 20 + ('GET', 'PUT', ''))} "
             f"{random_.choice(PATHS)} HTTP/1.{random_.choice('1110')}"]  # fmt: skip
    head = {
        "Host": random_.choice(("127.0.0.1",) * 20 + ("localhost:8012", "evil.example", "")),
        "Authorization": random_.choice((f"Bearer {TOKEN}",) * 20 + ("Bearer", "")),
        "Content-Length": random_.choice((str(len(data)),) * 30 + ("-1", "x", "1" * 20, "1000001")),
    }
    if random_.random() < 0.03:
        head["Origin"] = "http://localhost"
    if random_.random() < 0.05:
        head["Transfer-Encoding"] = "chunked"
    if random_.random() < 0.03:
        del head[random_.choice(tuple(head))]
    lines += [f"{name}: {text}" for name, text in head.items()]
    whole = "\r\n".join((*lines, "", "")).encode() + data
    complete = head.get("Content-Length") == str(len(data))
    if random_.random() < 0.05:
        place = random_.randrange(len(whole))
        whole = whole[:place] + random_.randbytes(4) + whole[place:]
        complete = False
    return whole, complete


def fuzz(count, models, seed):
    """Send so many; statuses and how often each came."""
    random_, events, counts = random.Random(seed), [], {}
    with opened(models, events.append) as door:
        for _ in range(count):
            data, complete = request(random_)
            # A request that promises more than it sends is ended by its sender.
            status = exchange(door, data, timeout=60, end=not complete)[0]
            assert status or not complete, data
            assert status < 500, data
            counts[status] = counts.get(status, 0) + 1
        assert get(door, "/v1/models")[0] == 200
    assert events == []
    # Enough got through to the model, and enough did not.
    assert counts[200] > count / 20
    assert counts[400] > count / 20
    return counts


def test_two_thousand_requests(tokenizer, capfd):
    with running(Stub()) as stub:
        fuzz(2_000, [served(stub, tokenizer)], 0)
    assert capfd.readouterr() == ("", "")  # nobody's code is logged


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_requests(tokenizer, capfd):
    with running(Stub()) as stub:
        fuzz(100_000, [served(stub, tokenizer)], 1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_llama_cpp_can_use_whatever_gets_through(tiny_model, tokenizer, tmp_path):
    """It would answer 500 to a value that it cannot, and the door 400, in llama.cpp's name."""
    path = tmp_path / "tiny.gguf"
    base = ModelRef(name="tiny", revision=None, path=str(tiny_model), digest="")
    metadata = gguf_metadata(tiny_model, 600)
    write_model(
        path, open_weights(base), {**metadata, CHAT_TEMPLATE: "{{ messages[0].content }}"},
        name="tiny", licence=None, quantisation="f16", wrote=lambda count: None,
    )  # fmt: skip
    with LlamaServer(path, context=512, slots=2, scratch=tmp_path) as process:
        model = ServedModel(
            name="tiny", upstream=Upstream(address=process.address, key=process.key),
            tokenizer=tokenizer, has_chat=True, context=512,
            fim_names=("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        )  # fmt: skip
        fuzz(3_000, [model], 2)
        assert process.exit_code is None
