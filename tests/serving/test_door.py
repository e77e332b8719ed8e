"""The door: who gets in, what a request may be, what llama.cpp is asked for it."""

import http.client
import json
import os
import socket
import threading
from dataclasses import replace

import openai
import pytest

from repotune.errors import UsageError
from repotune.events import Notice
from repotune.serving import Door
from repotune.serving import door as door_module
from repotune.tokens import load_tokenizer

from ..tokens.vocabularies import write_codellama
from .stub import AUTH, TOKEN, Stub, exchange, get, opened, post, running, served


def test_two_suffixes_are_two_prompts(door, stub, tokenizer):
    """The suffix is what llama.cpp's own /v1/completions ignores."""
    for suffix in ("\n    return total\n", "\n    raise\n"):
        status, _ = post(door, "/v1/completions", {"prompt": "def f():\n    ", "suffix": suffix})
        assert status == 200
    prompts = [body["prompt"] for _, body, _ in stub.asked]
    assert prompts[0] != prompts[1]
    fim = tokenizer.fim
    prefix, suffix = (tokenizer.encode(t).tolist() for t in ("def f():\n    ", "\n    raise\n"))
    assert prompts[1] == [
        fim.prefix_id, *prefix, fim.suffix_id, *suffix, fim.middle_id,
    ]  # fmt: skip
    assert all("suffix" not in body for _, body, _ in stub.asked)


def test_names_of_special_tokens_in_code_stay_text(door, stub, tokenizer):
    post(door, "/v1/completions", {"prompt": "a = '<|fim_middle|>'", "suffix": "<|fim_prefix|>"})
    post(door, "/v1/completions", {"prompt": "a = '<|fim_middle|>'\nb"})
    around, plain = (body["prompt"] for _, body, _ in stub.asked)
    assert sum(number in tokenizer.fim.ids for number in around) == 3
    assert not set(plain) & tokenizer.special_ids


def test_a_template_that_an_editor_wrote_is_the_same_prompt(door, stub):
    written = "<|fim_prefix|>def f():\n<|fim_suffix|>\n    pass\n<|fim_middle|>"
    post(door, "/v1/completions", {"prompt": written})
    post(door, "/v1/completions", {"prompt": "def f():\n", "suffix": "\n    pass\n"})
    assert stub.asked[0][1]["prompt"] == stub.asked[1][1]["prompt"]


def test_sentencepieces_template_is_read_too(stub, tmp_path):
    tokenizer = load_tokenizer(write_codellama(tmp_path))
    model = replace(
        served(stub, tokenizer), fim_names=("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>")
    )
    with opened([model]) as door:
        post(door, "/v1/completions", {"prompt": "<PRE> def f():\n <SUF>\n    pass\n <MID>"})
        post(door, "/v1/completions", {"prompt": "def f():\n", "suffix": "\n    pass\n"})
    assert stub.asked[0][1]["prompt"] == stub.asked[1][1]["prompt"]


def test_an_answer_at_once_is_the_pieces_together(door, stub):
    status, answer = post(door, "/v1/completions", {"prompt": "x", "max_tokens": 5, "stop": "\n"})
    assert status == 200
    assert answer["choices"] == [
        {"index": 0, "text": "one two", "logprobs": None, "finish_reason": "stop"}
    ]
    assert answer["usage"] == {"completion_tokens": 2}
    assert (answer["object"], answer["model"]) == ("text_completion", "tuned")
    path, body, headers = stub.asked[0]
    assert path == "/v1/completions"
    assert (body["max_tokens"], body["stop"], body["stream"]) == (5, ["\n"], True)
    assert headers["Authorization"] == "Bearer secret"  # never the client's own token
    status, answer = post(door, "/infill", {"input_prefix": "x", "input_suffix": "y"})
    assert (status, answer["content"], answer["stop"]) == (200, "one two", True)
    said = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}
    status, answer = post(door, "/v1/chat/completions", said)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "one two"}
    assert stub.asked[-1][1]["messages"] == [{"role": "user", "content": "hi"}]


def test_a_stream_is_passed_on_without_llama_cpps_progress(door):
    body = json.dumps({"prompt": "x", "stream": True}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost:1\r\nAuthorization: Bearer {TOKEN}\r\n"
    )
    data = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    status, headers, answer = exchange(door, data)
    assert status == 200
    assert "text/event-stream" in headers
    assert b"prompt_progress" not in answer
    events = answer.decode().strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    texts = [json.loads(one[6:])["choices"][0]["text"] for one in events[:-1]]
    assert texts == ["one", " two", ""]


def test_openais_client_chats_at_once_and_in_a_stream(door):
    asked = {"model": "tuned", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    with openai.OpenAI(base_url=f"{door.address}/v1", api_key=TOKEN) as client:
        whole = client.chat.completions.create(**asked)
        assert whole.choices[0].message.content == "one two"
        with client.chat.completions.create(**asked, stream=True) as stream:
            deltas = [piece.choices[0].delta for piece in stream]
    assert "".join(delta.content or "" for delta in deltas) == "one two"
    # llama.cpp leaves it out where the first token is half a character.
    assert [delta.role for delta in deltas] == ["assistant", None, None]


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_is_hung_up_on(stream, door, stub):
    stub.endless = True
    connection = http.client.HTTPConnection(door.address.removeprefix("http://"), timeout=10)
    connection.request(
        "POST", "/v1/completions", json.dumps({"prompt": "x", "stream": stream}), AUTH
    )
    assert stub.started.wait(5)
    assert not stub.hung_up.is_set()
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    assert stub.hung_up.wait(1.0)


def test_models_and_health(door):
    assert get(door, "/v1/models")[1]["data"][0]["id"] == "tuned"
    port = door.address.rpartition(":")[2]
    data = f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    assert exchange(door, data)[0] == 200  # without the token


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": TOKEN}, 401),
        ({"Authorization": "Bearer h\u00e9"}, 401),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:8012"}, 403),
        ({"Host": "127.0.0.1\r\nHost: localhost"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:8012"}, 403),
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Content-Length": "-1"}, 400),
        ({"Content-Length": "\u00b2"}, 400),
        ({"Content-Length": "1000001"}, 413),
        ({"Content-Length": "9" * 5000}, 413),
        ({"Content-Length": "3\r\nContent-Length: 3"}, 411),
        ({"X-Long": "x" * 70_000}, 431),
        ({f"X-{number}": "1" for number in range(200)}, 431),
    ],
)
def test_a_stranger_or_a_strange_head_is_refused(headers, status, door, stub):
    got, answer = post(door, "/v1/completions", {"prompt": "x"}, **headers)
    assert got == status
    assert answer["error"]["message"]
    assert stub.asked == []


def test_a_body_over_the_cap_is_refused_and_the_client_can_read_why(door, stub):
    status, answer = post(door, "/v1/completions", {"prompt": "x" * 2_000_000})
    assert (status, answer["error"]["message"][:8]) == (413, "The body")
    assert stub.asked == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"prompt": NaN}', "not JSON"),
        (b"[]", "JSON object"),
        ({}, "prompt must be a string"),
        ({"prompt": 3}, "prompt must be a string"),
        ({"prompt": []}, "not empty"),
        ({"prompt": [10**9]}, "whole number from 0"),
        ({"prompt": [True]}, "whole number from 0"),
        ({"prompt": ["a", "b"]}, "One prompt at a time"),
        ({"prompt": [[1], [2]]}, "One prompt at a time"),
        ({"prompt": [[["x"]]]}, "whole number from 0"),
        ({"prompt": "\ud800"}, "surrogate"),
        ({"prompt": "x", "suffix": 3}, "suffix must be a string"),
        ({"prompt": [1], "suffix": "x"}, "a string, not ids"),
        ({"prompt": "x", "temperature": "1"}, "temperature must be"),
        ({"prompt": "x", "temperature": 1e400}, "not JSON"),
        ({"prompt": "x", "temperature": 10**400}, "temperature must be"),
        ({"prompt": "x", "top_p": -0.1}, "top_p must be"),
        ({"prompt": "x", "seed": 1.5}, "seed must be"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens must be"),
        ({"prompt": "x", "stop": [1]}, "stop must be"),
        ({"prompt": "x", "stop": ["x"] * 40}, "at most 32"),
        ({"prompt": "x", "stream": 1}, "stream must be"),
        ({"prompt": "x", "stream_options": 1}, "stream_options must be"),
        ({"prompt": "x", "model": {}}, "model must be"),
        ({"prompt": "x", "n": 2}, "n is not supported"),
        ({"prompt": "x", "echo": True}, "echo is not supported"),
        ({"prompt": "x", "logprobs": 3}, "logprobs is not supported"),
        ({"prompt": "x = 1\n" * 2000}, "tokens and the context 512"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(body, words, door, stub):
    status, answer = post(door, "/v1/completions", body)
    assert status == 400
    assert words in answer["error"]["message"]
    assert stub.asked == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/infill", {"input_prefix": 1}),
        ("/infill", {"input_extra": [1]}),
        ("/infill", {"input_extra": [{"text": 1}]}),
        ("/infill", {"samplers": "top_k"}),
        ("/infill", {"n_predict": "8"}),
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"messages": []}),
        ("/v1/chat/completions", {"messages": [{"role": "root", "content": "x"}]}),
        ("/v1/chat/completions", {"messages": [{"role": ["user"], "content": "x"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"image_url": 1}]}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user"}]}),
    ],
)
def test_the_other_paths_check_their_fields_too(path, body, door, stub):
    status, _ = post(door, path, body)
    assert status == 400
    assert stub.asked == []


def test_null_is_as_good_as_absent_and_unknown_fields_are_not_passed_on(door, stub):
    body = {"prompt": "x", "temperature": None, "stream": None, "suffix": None, "grammar": "("}
    assert post(door, "/v1/completions", body)[0] == 200
    assert set(stub.asked[0][1]) == {
        "prompt", "max_tokens", "model", "stream", "return_progress",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET / HTTP/1.1", 404),
        ("POST /v1/embeddings HTTP/1.1", 404),
        ("GET /v1/completions HTTP/1.1", 405),
        ("POST /health HTTP/1.1", 405),
        ("DELETE /v1/models HTTP/1.1", 405),
        ("OPTIONS /v1/completions HTTP/1.1", 405),
        ("GET /health HTTP/9.9", 400),
        ("GET /health", 400),
        ("nonsense", 400),
        ("GET /" + "x" * 70_000 + " HTTP/1.1", 414),
    ],
)
def test_a_line_that_asks_for_nothing_here(line, status, door):
    data = f"{line}\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    assert exchange(door, data)[0] == status


def test_a_model_without_fill_in_the_middle_or_chat_says_so(stub, tokenizer):
    with opened([served(stub, tokenizer, fim=False, has_chat=False)]) as door:
        status, answer = post(door, "/v1/completions", {"prompt": "x", "suffix": "y"})
        assert status == 400
        assert "no tokens for fill in the middle" in answer["error"]["message"]
        assert post(door, "/infill", {"input_prefix": "x"})[0] == 400
        assert post(door, "/v1/chat/completions", {"messages": []})[0] == 400
        assert stub.asked == []
        # An editor always sends a suffix, at the end of a file a blank one.
        assert post(door, "/v1/completions", {"prompt": "x", "suffix": "\n"})[0] == 200


def test_what_llama_cpp_refuses_is_the_clients_to_mend(door, stub):
    stub.refusal = (500, {"message": "no such thing", "type": "server_error"})
    status, answer = post(door, "/v1/completions", {"prompt": "x", "stream": True})
    assert status == 400
    assert "no such thing" in answer["error"]["message"]
    stub.refusal = (401, "Unauthorized")  # as vLLM says it
    status, answer = post(door, "/v1/completions", {"prompt": "x"})
    assert (status, answer["error"]["message"][-12:]) == (400, "Unauthorized")


def test_of_two_models_the_named_one_is_asked(tokenizer):
    with running(Stub()) as one, running(Stub()) as two:
        models = [served(one, tokenizer), served(two, tokenizer, name="base")]
        with opened(models) as door:
            assert post(door, "/infill", {"model": "base"})[0] == 200
            assert (len(one.asked), len(two.asked)) == (0, 1)
            assert post(door, "/infill", {"model": ""})[0] == 200
            assert (len(one.asked), len(two.asked)) == (1, 1)
            assert post(door, "/infill", {"model": "other"})[0] == 404


def test_more_connections_than_there_are_places_are_told_to_come_again(
    stub, tokenizer, monkeypatch
):
    monkeypatch.setattr(door_module, "CONNECTIONS", 1)
    stub.endless = True
    with opened([served(stub, tokenizer)]) as door:
        first = http.client.HTTPConnection(door.address.removeprefix("http://"), timeout=10)
        first.request("POST", "/v1/completions", json.dumps({"prompt": "x"}), AUTH)
        assert stub.started.wait(5)
        assert get(door, "/v1/models")[0] == 429
        first.close()


def test_a_port_in_use_is_said(door):
    port = int(door.address.rpartition(":")[2])
    with pytest.raises(UsageError, match=f"Port {port} cannot be had"):
        Door(port, TOKEN, lambda event: None)


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no port for connections that close")
def test_a_port_can_be_had_again_at_once(stub, tokenizer):
    """Who stops and starts again keeps the editors' settings; the last connections, which the door
    has closed, keep the port for a minute otherwise."""
    with opened([served(stub, tokenizer)]) as door:
        assert post(door, "/v1/completions", {"prompt": "x"})[0] == 200
        port = int(door.address.rpartition(":")[2])
        door.close()  # and once more when it is left
    Door(port, TOKEN, lambda event: None).close()


def test_a_bug_of_ours_is_said_without_the_request(stub, tokenizer, monkeypatch, capfd):
    def broken(*_):
        raise KeyError("the user's code")

    monkeypatch.setattr(door_module, "prepare", broken)
    seen, said = [], threading.Event()

    def emit(event):
        seen.append(event)
        said.set()

    with opened([served(stub, tokenizer)], emit) as door:
        data = json.dumps({"prompt": "the user's code"}).encode()
        head = f"POST /infill HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        exchange(door, f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        assert said.wait(5)
    assert [type(event) for event in seen] == [Notice]
    assert "KeyError at test_door.py:" in seen[0].message
    assert "code" not in seen[0].message
    assert capfd.readouterr() == ("", "")
