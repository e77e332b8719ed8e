"""Hanging up reaches llama.cpp: with the starter's own file, which it reads as it is."""

import http.client
import json
import socket
import threading
import time

import openai
import pytest

from repotune.llama_cpp import LlamaServer
from repotune.model.starter import starter_path
from repotune.serving import ServedModel, Upstream
from repotune.tokens import load_tokenizer

from .stub import TOKEN, opened


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("log")
    with LlamaServer(starter_path(), context=2048, slots=2, scratch=scratch) as server:
        yield server, scratch


@pytest.fixture(scope="module")
def door(process):
    model = ServedModel(
        name="starter", upstream=Upstream(address=process[0].address, key=process[0].key),
        tokenizer=load_tokenizer(starter_path()), fim_names=None, has_chat=True, context=2048,
    )  # fmt: skip
    with opened([model]) as opened_door:
        yield opened_door


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("times", [1, 280], ids=["while it writes", "while it reads the prompt"])
def test_a_client_that_hangs_up_frees_the_slot_within_a_second(times, stream, process, door):
    server, _ = process
    body = {"prompt": f"# {stream} {times}\n" + "x = f(1)\n" * times, "max_tokens": 1500,
            "stream": stream, "seed": 1, "temperature": 1.5}  # fmt: skip
    connection = http.client.HTTPConnection(door.address.removeprefix("http://"), timeout=30)
    connection.request(
        "POST", "/v1/completions", json.dumps(body), {"Authorization": f"Bearer {TOKEN}"}
    )
    until(lambda: busy(server), 10)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    until(lambda: not busy(server), 1.0)


def test_a_chat_model_chats_with_openais_own_client(door):
    said = [{"role": "user", "content": "Say hello."}]
    with openai.OpenAI(base_url=f"{door.address}/v1", api_key=TOKEN) as client:
        asked = {"model": "starter", "messages": said, "max_tokens": 4, "temperature": 0}
        whole = client.chat.completions.create(**asked)
        assert whole.choices[0].message.content
        assert whole.usage.completion_tokens == 4
        with client.chat.completions.create(**asked, stream=True) as stream:
            pieces = [piece.choices[0].delta.content or "" for piece in stream]
    assert "".join(pieces) == whole.choices[0].message.content


def test_no_prompt_and_no_key_stands_in_its_log(process, door):
    server, scratch = process
    connection = http.client.HTTPConnection(door.address.removeprefix("http://"), timeout=60)
    for prompt in ("unmistakable = 1\n", "unmistakable = 1\n" * 1000):  # the second is too long
        body = {"prompt": prompt, "max_tokens": 2}
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"Authorization": f"Bearer {TOKEN}"}
        )
        connection.getresponse().read()
        connection.close()
    log = "".join(path.read_text("utf-8", "replace") for path in scratch.iterdir())
    assert "unmistakable" not in log
    assert server.key not in log
    assert TOKEN not in log


def test_only_who_has_the_key_is_answered_by_llama_cpp(process):
    connection = http.client.HTTPConnection(process[0].address.removeprefix("http://"), timeout=10)
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "x", "max_tokens": 1}))
    assert connection.getresponse().status == 401
    connection.close()


def busy(server):
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=10)
    connection.request("GET", "/slots", headers={"Authorization": f"Bearer {server.key}"})
    slots = json.loads(connection.getresponse().read())
    connection.close()
    return any(slot["is_processing"] for slot in slots)


def until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.01)
