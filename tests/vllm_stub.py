"""A stand-in for vLLM's program: it takes the flags, paths and fields that vLLM 0.32.0 took when it
was tried, and answers in its form. What it computes comes from transformers.

Refusing what vLLM does not know, it fails where we would ask for something else.
"""

import argparse
import json
import os
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

FIELDS = {"model", "prompt", "max_tokens", "temperature", "prompt_logprobs", "stream",
          "top_p", "min_p", "top_k", "seed", "presence_penalty", "frequency_penalty", "stop",
          "messages", "stream_options", "add_special_tokens"}  # fmt: skip


def write_program(folder, code="main()"):
    """An executable `vllm` in ``folder`` that runs ``code`` of this module."""
    folder.mkdir(exist_ok=True)
    program = folder / "vllm"
    here = Path(__file__).parent
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(here)!r})\n"
        f"from vllm_stub import *\n{code}\n"
    )
    program.chmod(0o700)
    return program


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    for name in ("served-model-name", "uds"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("max-model-len", "max-num-seqs", "max-logprobs", "kv-cache-memory-bytes"):
        parser.add_argument(f"--{name}", required=True, type=int)
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--disable-uvicorn-access-log", action="store_true")
    parser.add_argument("--generation-config", required=True, choices=["vllm"])
    given = parser.parse_args()
    Server(given).serve_forever(0.05)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, given):
        self.given, self.lock, self.loaded = given, threading.Lock(), None
        super().__init__(given.uds, Handler)

    def model(self):
        """Loaded late: most tests do not ask it."""
        import transformers

        with self.lock:
            if self.loaded is None:
                self.loaded = (
                    transformers.AutoModelForCausalLM.from_pretrained(self.given.model),
                    transformers.AutoTokenizer.from_pretrained(self.given.model),
                )
        return self.loaded


class Handler(BaseHTTPRequestHandler):
    def address_string(self):
        return "socket"

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        self.answer(200, {"version": "0.32.0"} if self.path == "/version" else {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        given = self.server.given
        key = os.environ.get("VLLM_API_KEY")
        if key and self.headers["Authorization"] != f"Bearer {key}":
            return self.answer(401, {"error": "Unauthorized"})
        unknown = set(body) - FIELDS
        if unknown or body["model"] != given.served_model_name:
            return self.refuse(f"unknown: {unknown or body['model']}")
        if self.path == "/tokenize":
            ids = self.ids(body)
            return self.answer(200, {"count": len(ids), "tokens": ids})
        if body.get("prompt_logprobs", 0) > given.max_logprobs:
            return self.refuse("Requested prompt logprobs greater than max allowed")
        if body.get("max_tokens", 1) < 1:
            return self.refuse(f"max_tokens must be at least 1, got {body['max_tokens']}.")
        if len(self.ids(body)) + body.get("max_tokens", 1) > given.max_model_len:
            return self.refuse("maximum context length")  # as some versions do
        if body.get("stream"):
            return self.say_events(body)
        expected = self.likely(body) if "prompt_logprobs" in body else None
        return self.answer(200, {"choices": [{"text": "x", "prompt_logprobs": expected}]})

    def ids(self, body):
        prompt = body.get("prompt")
        if isinstance(prompt, list):
            return prompt
        _, tokenizer = self.server.model()
        if prompt is not None:
            return tokenizer.encode(prompt, add_special_tokens=body["add_special_tokens"])
        return tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_dict=False
        )

    def likely(self, body):
        """vLLM's ``prompt_logprobs``: null, then for each token what was expected in its place."""
        import torch

        model, tokenizer = self.server.model()
        ids = body["prompt"]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].float()
        expected = [None]
        for row, label in zip(logits.log_softmax(-1)[:-1], ids[1:], strict=True):
            order = row.argsort(descending=True).tolist()
            shown = order[: body["prompt_logprobs"]]
            expected.append(
                {
                    str(token): {
                        "logprob": float(row[token]), "rank": order.index(token) + 1,
                        "decoded_token": tokenizer.decode([token]),
                    }
                    for token in dict.fromkeys([label, *shown])
                }
            )  # fmt: skip
        return expected

    def say_events(self, body):
        self.send_response(200)
        self.end_headers()
        chat = "messages" in body
        for piece, finish in (("one", None), (" two", None), ("", "stop")):
            said = {"delta": {"content": piece}} if chat else {"text": piece}
            choice = {"index": 0, "finish_reason": finish, **said}
            self.say({"id": "x", "created": 1, "model": body["model"], "choices": [choice]})
        if body.get("stream_options", {}).get("include_usage"):
            self.say({"id": "x", "choices": [], "usage": {"completion_tokens": 3}})
        self.wfile.write(b"data: [DONE]\n\n")

    def say(self, event):
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    def refuse(self, message):
        error = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
        self.answer(400, {"error": error})

    def answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
