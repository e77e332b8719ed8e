"""Requests by llama.cpp's /infill: what of an editor's code is sent on."""

import json

import pytest

from repotune.serving.requests import STEP

from .stub import TOKEN, exchange, post


def test_infill_is_the_same_prompt_with_other_code_in_front(door, stub, tokenizer):
    gap = {"input_prefix": "def f():\n", "prompt": "    ", "input_suffix": "\n    pass\n"}
    post(door, "/infill", gap)
    post(door, "/infill", {**gap, "input_extra": [{"text": "import os\n"}], "n_predict": 0})
    post(door, "/v1/completions", {"prompt": "def f():\n    ", "suffix": "\n    pass\n"})
    alone, with_extra, completion = (body for _, body, _ in stub.asked)
    assert stub.asked[0][0] == "/completion"
    assert alone["prompt"] == completion["prompt"]
    extra = tokenizer.encode("\n\n--- snippet ---\n\nimport os\n").tolist()
    assert with_extra["prompt"] == [*extra, *alone["prompt"]]
    assert (alone["n_predict"], with_extra["n_predict"]) == (128, 0)


@pytest.mark.parametrize("new", [0, 64, -1])
def test_infill_is_cut_to_what_is_nearest_to_the_cursor(new, door, stub, tokenizer):
    lines = [f"x{number} = f({number})\n" for number in range(400)]
    code, other = "".join(lines), [{"text": "y = 1\n" * 400}]
    sent = {"input_prefix": code, "input_suffix": code, "input_extra": other, "n_predict": new}
    assert post(door, "/infill", sent)[0] == 200
    assert post(door, "/infill", {**sent, "input_prefix": "a = ", "input_suffix": "\n"})[0] == 200
    fim, (both, little) = tokenizer.fim, (body["prompt"] for _, body, _ in stub.asked)
    asked = stub.asked[0][1]["n_predict"]
    for prompt in (both, little):  # to within a step
        assert 512 - 8 - asked - STEP < len(prompt) <= 512 - asked
    assert both[0] == fim.prefix_id  # nothing left for other code
    middle = both.index(fim.suffix_id)
    assert tokenizer.decode(both[1:middle]).endswith(lines[-1])
    assert tokenizer.decode(both[middle + 1 : -1]).startswith(lines[0])
    assert tokenizer.decode(little).endswith("y = 1\na = ")


@pytest.mark.parametrize("lines", [20, 400])
def test_what_is_cut_stays_the_same_while_somebody_types(lines, door, stub, tokenizer):
    """llama.cpp has read a prompt up to the first token that differs; were one more cut off in
    front for each that is typed, it would read the whole context at each key."""
    sent = {
        "input_prefix": "".join(f"x{number} = f({number})\n" for number in range(lines)),
        "input_extra": [{"text": f"y{number} = 1\n" * 20} for number in range(20)],
        "n_predict": 16,
    }
    for typed in ("a", "a =", "a = b", "a = b +", "a = b + c"):
        assert post(door, "/infill", {**sent, "prompt": typed})[0] == 200
    prompts = [body["prompt"] for _, body, _ in stub.asked]
    assert all(len(prompt) > 300 for prompt in prompts)
    assert sum(prompt[:300] == prompts[0][:300] for prompt in prompts) >= 4


def test_of_other_code_the_oldest_is_left_out(door, stub, tokenizer):
    extra = [{"text": f"y{number} = 1\n" * 20} for number in range(20)]
    post(door, "/infill", {"input_prefix": "x", "input_extra": extra, "n_predict": 16})
    text = tokenizer.decode(stub.asked[0][1]["prompt"])
    assert text.endswith("--- snippet ---\n\n" + "y19 = 1\n" * 20 + "x")
    assert "y18 = 1" in text
    assert "y1 = 1" not in text


def test_fields_of_the_answer_are_asked_for_and_passed_on(door, stub):
    """llama.vim asks for its timings under flat names, and looks for ``"content":"`` as text."""
    wanted = ["content", "timings/prompt_n"]
    body = json.dumps({"input_prefix": "x", "response_fields": wanted}).encode()
    head = f"POST /infill HTTP/1.1\r\nHost: localhost:1\r\nAuthorization: Bearer {TOKEN}\r\n"
    data = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    assert b'"content":"one two"' in exchange(door, data)[2]
    assert stub.asked[0][1]["response_fields"] == wanted
    stub.last = {}  # as llama.cpp answers where none of the wanted fields is there
    assert post(door, "/infill", {"input_prefix": "x", "response_fields": [""]}) == (200, {})
