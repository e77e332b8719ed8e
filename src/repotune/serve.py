"""After a run: its model at an address on loopback, for editors.

The verb behind ``repotune serve``. Torch is imported inside it, once the arguments are known to be
good.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from repotune.durable import sync_folder, writing
from repotune.errors import DoesNotFit, ExportError, RunError, UsageError
from repotune.events import Emit, Notice, StageDone, StageProgress, StageStarted, ignore
from repotune.job import Job, settle, without_notices
from repotune.llama_cpp import LlamaServer, version
from repotune.records import Quantisation, Served, Trial
from repotune.runs import RunFolder, find_run

if TYPE_CHECKING:
    from repotune.serving import ServedModel

Which: TypeAlias = Literal["tuned", "base", "both"]

CONTEXT: Final = 4096
"""Tokens at most, of prompt and answer: more than editors send around a cursor."""
SLOTS: Final = 2
"""Requests that are answered at a time: an editor hangs up on one and sends the next."""
KV_BYTES: Final = 2
"""A number of a key or value is stored in fp16."""
SLACK_BYTES: Final = 300_000_000
"""llama.cpp's own buffers, and a Python process for each model."""
FILE_VERSION: Final = 1
"""Raised whenever the same weights would give another GGUF file."""
FILES, LOAD = "export", "load"
NAMES: Final[Mapping[Which, tuple[str, ...]]] = {
    "tuned": ("tuned",),
    "base": ("base",),
    "both": ("tuned", "base"),
}
"""The models by the names that requests call them, the one that is asked by default first."""
GAP: Final = (
    "def mean(values):\n    total = 0\n    for value in values:\n        ",
    "\n    return total / len(values)\n",
)
"""Code before and after the cursor of the first request."""
TRIAL_TOKENS: Final = 24
NO_EDITOR: Final = (
    "has no tokens for fill in the middle, so an editor cannot ask it for what stands between "
    "prefix and suffix, and there are no settings for editors: it completes from left to right. "
    "`repotune tune --fim-tokens add` teaches a model to fill in."
)
INSTALL: Final = 'pip install "repotune[gguf]"'


class Serving:
    """A server that runs until the ``with`` block is left, with a process for each model."""

    def __init__(self, served: Served, processes: Mapping[str, LlamaServer]) -> None:
        self.served, self.processes = served, processes

    def wait(self, seconds: float = 1.0) -> None:
        """Sleep, then raise ExportError if a model's process has ended meanwhile."""
        time.sleep(seconds)
        for name, process in self.processes.items():
            if process.exit_code is not None:
                raise ExportError(
                    f"llama.cpp's process for {name} ended with exit code {process.exit_code}: "
                    "start `repotune serve` again, and report it if that happens twice."
                )


@contextmanager
def serve(
    run: str | Path, *, which: Which = "tuned", port: int = 8012, token: str | None = None,
    quantisation: Quantisation = "q8_0", write_config: Path | None = None,
    emit: Emit = ignore,
) -> Iterator[Serving]:  # fmt: skip
    """Serve the run's tuned model, its base, or both; ready when the block is entered.

    ``port`` 0 takes any that is free; ``token`` None makes a random one; ``write_config`` is a
    folder for editors' settings. Raises UsageError for a port in use, a token that no header
    carries or a folder with files of the user's, RunError if the run has no adapter yet,
    ModelError if its base model moved or changed, DiskFull and DoesNotFit where there is no room,
    ExportError if llama.cpp is not installed or does not serve.
    """
    from repotune.serving import Door, editor_settings, refuse_others_files, write_settings

    token = _checked_token(token)
    if write_config is not None:
        refuse_others_files(write_config)
    if version() is None:
        raise ExportError(f"llama.cpp, which serves the model, is not installed: run `{INSTALL}`.")
    found = find_run(run, Path.cwd())
    if which != "base" and not found.adapter.exists():
        raise RunError(
            f"{found.path} has no adapter yet: finish it with `repotune tune --resume "
            f"{found.path}`, or serve the base model with --base."
        )
    with ExitStack() as stack:
        door = Door(port, token, emit)
        stack.callback(door.close)
        files, models, processes = _start(found, which, quantisation, stack, emit)
        door.open(models)
        trials = tuple(_try(door.address, token, model) for model in models)
        settings = {}
        if models[0].fim_names is None:
            emit(Notice(message=f"{found.path.name}'s model {NO_EDITOR}"))
        else:
            settings = editor_settings(
                door.address, token, [one.name for one in models],
                has_chat=models[0].has_chat, context=models[0].context,
            )  # fmt: skip
        if write_config is not None:
            write_settings(write_config, settings)
        served = Served(
            address=door.address, token=token, models=NAMES[which],
            files={name: str(path) for name, path in files.items()},
            trials=trials, settings=settings,
        )  # fmt: skip
        yield Serving(served, processes)


def _checked_token(token: str | None) -> str:
    if token is None:
        return secrets.token_urlsafe(24)
    if len(token) < 8 or not all("!" <= character <= "~" for character in token):
        raise UsageError(
            "--token must have at least 8 letters, digits or signs of ASCII, without spaces."
        )
    return token


def _start(
    run: RunFolder, which: Which, quantisation: Quantisation, stack: ExitStack, emit: Emit
) -> tuple[dict[str, Path], list[ServedModel], dict[str, LlamaServer]]:
    """The GGUF files, made where they are not there yet, each in a process of llama.cpp."""
    from repotune.serving import ServedModel, Upstream
    from repotune.tokens import gguf_metadata, load_tokenizer
    from repotune.tokens.gguf_metadata import CHAT_TEMPLATE

    job = settle(run.state(), without_notices(emit))
    context = min(CONTEXT, job.shape.max_position_embeddings)
    _refuse_no_memory(job, len(NAMES[which]), quantisation, context)
    base = Path(job.base.path)
    tokenizer = gguf_metadata(base, job.shape.vocab_size, add_fim=job.add_fim)
    with run.locked():
        files = {
            name: _model_file(run, job, tokenizer, name == "tuned", quantisation, emit)
            for name in NAMES[which]
        }
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
    processes, models = {}, []
    for name, path in files.items():
        emit(StageStarted(stage=LOAD))
        server = LlamaServer(path, context=context, slots=SLOTS, scratch=scratch)
        processes[name] = stack.enter_context(server)
        # The base model itself was not taught the tokens that the run has added.
        reads = job.tokenizer if name == "tuned" else load_tokenizer(base)
        fim, names = reads.fim, tokenizer["tokenizer.ggml.tokens"]
        models.append(
            ServedModel(
                name=name,
                upstream=Upstream(address=server.address, key=server.key),
                tokenizer=reads,
                fim_names=(names[fim.prefix_id], names[fim.suffix_id], names[fim.middle_id])
                if fim else None,
                has_chat=CHAT_TEMPLATE in tokenizer,
                context=context,
            )
        )  # fmt: skip
        emit(StageDone(stage=LOAD, summary=f"{name}: {path.name}"))
    return files, models, processes


def _refuse_no_memory(job: Job, models: int, quantisation: Quantisation, context: int) -> None:
    """Raises DoesNotFit if weights, keys and values are more than the memory that is free."""
    from repotune.export import model_bytes

    shape = job.shape
    per_token = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * KV_BYTES
    kept = model_bytes(shape, quantisation) + per_token * context * SLOTS + SLACK_BYTES
    need, free = models * kept, job.machine.ram_free_bytes
    if need > free:
        fewer = "" if quantisation == "q4_k_m" else ", or take fewer bits with --quantisation"
        raise DoesNotFit(
            f"Serving takes {need / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB is free: "
            f"close other programs{fewer}."
        )


def _model_file(
    run: RunFolder, job: Job, tokenizer: Mapping[str, Any], tuned: bool,
    quantisation: Quantisation, emit: Emit,
) -> Path:  # fmt: skip
    """The run's GGUF file, merged and quantised by the export's code unless it is there already."""
    from repotune.export import (
        MergedWeights,
        adapter_shapes,
        find_program,
        model_bytes,
        read_adapter,
        write_quantised,
    )
    from repotune.export.fresh import refuse_no_room

    folder = run.path / "serve"
    kind = f"{'tuned' if tuned else 'base'}-{quantisation.upper()}"
    path = folder / f"{kind}-{_digest(run, job, tokenizer, tuned)}.gguf"
    if path.exists():
        return path
    program = find_program() if quantisation == "q4_k_m" else None
    size = model_bytes(job.shape, quantisation)
    by_way = model_bytes(job.shape, "f16") if program is not None else 0
    refuse_no_room(folder, size + by_way, "take fewer bits with --quantisation")
    adapter = (
        read_adapter(run.adapter, adapter_shapes(job.shape, job.lora), lora=job.lora)
        if tuned else {}
    )  # fmt: skip
    source = MergedWeights(job.weights(), adapter, lora=job.lora)
    total, done = by_way or size, 0

    def wrote(count: int) -> None:
        nonlocal done
        done += count
        emit(StageProgress(stage=FILES, done=min(done, total)))

    emit(StageStarted(stage=FILES, total=total, unit="bytes"))
    with writing(folder, then="serve again"):
        folder.mkdir(exist_ok=True)
        for left in folder.glob(".partial-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
            write_quantised(
                Path(partial) / path.name, source, tokenizer, name=kind.lower(), licence=None,
                quantisation=quantisation, program=program, wrote=wrote,
            )  # fmt: skip
            (Path(partial) / path.name).replace(path)
        sync_folder(folder)
    for old in folder.glob(f"{kind}-*.gguf"):
        if old != path:
            with suppress(OSError):  # Windows keeps a file that another server has open
                old.unlink()
    emit(StageDone(stage=FILES, summary=f"{path.name}, {size / 1e6:,.1f} MB"))
    return path


def _digest(run: RunFolder, job: Job, tokenizer: Mapping[str, Any], tuned: bool) -> str:
    """Of all that the file is made of."""
    from repotune.model import weights_id

    made_of = hashlib.sha256()
    facts = [FILE_VERSION, weights_id(job.base), tokenizer]
    if tuned:
        facts += [job.lora.scale]
        for path in sorted(run.adapter.iterdir()):
            made_of.update(path.name.encode() + path.read_bytes())
    made_of.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return made_of.hexdigest()[:16]


def _try(address: str, token: str, model: ServedModel) -> Trial:
    """One real request through the door. Raises ExportError if there is no answer."""
    prefix, suffix = GAP[0], GAP[1] if model.fim_names else None
    body = {
        "model": model.name, "prompt": prefix, "suffix": suffix, "temperature": 0,
        "max_tokens": TRIAL_TOKENS,
    }  # fmt: skip
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    began = time.monotonic()
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        content = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ExportError(f"The server gave no answer to its first request ({error!r}).") from None
    finally:
        connection.close()
    if response.status != 200:
        raise ExportError(
            f"The server refused its first request ({content['error']['message']}): report it."
        )
    return Trial(
        model=model.name, prefix=prefix, suffix=suffix,
        answer=content["choices"][0]["text"], seconds=time.monotonic() - began,
    )  # fmt: skip
