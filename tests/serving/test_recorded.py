"""What editors really send, replayed byte by byte, and read as each editor reads the answer."""

import json
import re
from pathlib import Path

import pytest

from .stub import AUTH, exchange, post

RECORDED = {
    one["name"]: one
    for one in json.loads(
        (Path(__file__).parents[1] / "data" / "editors" / "requests.json").read_text("utf-8")
    )
}
WRITTEN = "one two"


def replay(door, name):
    """Status and body of the answer, as text."""
    one = RECORDED[name]
    data = json.dumps(one["body"]).encode()
    given = {"Host": "127.0.0.1:8012", **one["headers"], **AUTH, "Content-Length": str(len(data))}
    lines = [f"POST {one['path']} HTTP/1.1", *(f"{key}: {value}" for key, value in given.items())]
    status, _, answer = exchange(door, "\r\n".join((*lines, "", "")).encode() + data)
    return status, answer.decode()


def read_by_llama_vim(answer):
    """Two patterns first, then JSON, as its ``s:fim_on_response``."""
    assert re.match(r"\s*\{", answer)
    assert re.search(r'"content"\s*:"', answer)
    return json.loads(answer)["content"]


def read_by_minuet(answer):
    """Each line that is JSON behind ``data:``, as its ``stream_decode``."""
    pieces = []
    for line in answer.split("\n"):
        try:
            pieces.append(json.loads(re.sub("^data:", "", line))["choices"][0]["text"])
        except ValueError:
            continue
    return "".join(pieces)


def read_by_continue(answer):
    """Server-sent events until ``[DONE]``, each with a text."""
    events = [line.removeprefix("data: ") for line in answer.split("\n") if line]
    assert events.pop() == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["text"] for event in events)


def read_by_llama_vscode(answer):
    return json.loads(answer)["content"]


def read_by_llama_vims_instruct(answer):
    said = [json.loads(line[6:]) for line in answer.split("\n") if line.startswith("data: {")]
    return "".join(one["choices"][0]["delta"].get("content") or "" for one in said)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("llama.vim completion", read_by_llama_vim),
        ("llama.vscode completion", read_by_llama_vscode),
        ("minuet-ai.nvim completion", read_by_minuet),
        ("Continue completion", read_by_continue),
    ],
)
def test_a_gap_of_each_editor_is_asked_around_the_cursor_and_answered(
    name, read, door, stub, tokenizer
):
    status, answer = replay(door, name)
    assert status == 200
    assert read(answer) == WRITTEN
    sent, (_, asked, _) = RECORDED[name]["body"], stub.asked[0]
    fim, ids = tokenizer.fim, asked["prompt"]
    start, middle, end = (ids.index(one) for one in (fim.prefix_id, fim.suffix_id, fim.middle_id))
    before = sent.get("input_prefix", "") + sent["prompt"]
    assert tokenizer.decode(ids[start + 1 : middle]) == before
    assert tokenizer.decode(ids[middle + 1 : end]) == sent.get("input_suffix", sent.get("suffix"))
    for one in sent.get("input_extra", ()):
        assert one["text"] in tokenizer.decode(ids[:start])
    for field in ("top_k", "top_p", "temperature", "n_indent", "t_max_predict_ms", "stop"):
        if sent.get(field):
            assert asked[field] == sent[field]
    assert asked.get("n_predict", asked.get("max_tokens")) in (64, 128)


@pytest.mark.parametrize(
    "name", ["llama.vim warm-up", "llama.vscode warm-up", "llama.vim instruct warm-up"]
)
def test_to_have_code_read_beforehand_nothing_is_written(name, door, stub):
    assert replay(door, name)[0] == 200
    asked = stub.asked[0][1]
    assert asked.get("n_predict", asked.get("max_tokens")) == 0


def test_what_is_read_beforehand_is_how_the_next_prompt_begins(door, stub):
    """Else it was read for nothing."""
    warm = RECORDED["llama.vscode warm-up"]["body"]
    gap = RECORDED["llama.vscode completion"]["body"]
    assert post(door, "/infill", {**warm, "input_extra": gap["input_extra"]})[0] == 200
    assert post(door, "/infill", gap)[0] == 200
    read, asked = (body["prompt"] for _, body, _ in stub.asked)
    assert asked[: len(read)] == read


def test_an_instruction_has_room_for_what_is_rewritten(door, stub):
    status, answer = replay(door, "llama.vim instruct")
    assert status == 200
    assert read_by_llama_vims_instruct(answer) == WRITTEN
    _, asked, _ = stub.asked[0]
    assert asked["max_tokens"] == 512 // 4
    assert [one["role"] for one in asked["messages"]] == ["system", "user"]
