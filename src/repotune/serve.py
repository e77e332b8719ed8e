"""After a run: its model at an address on loopback, for editors.

The verb behind ``repotune serve``. Torch is imported inside it, once the arguments are known to be
good.
"""

from __future__ import annotations

import http.client
import json
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from repotune.errors import DoesNotFit, ExportError, UsageError
from repotune.events import Emit, Notice, StageDone, StageStarted, ignore
from repotune.job import Job, settle, without_notices
from repotune.llama_cpp import LlamaServer, version
from repotune.records import Engine, Quantisation, Served, Trial
from repotune.runs import RunFolder, find_run
from repotune.vllm import VllmServer, find_vllm

if TYPE_CHECKING:
    from repotune.serving import ServedModel, Upstream
    from repotune.stages import ProvedModel

Which: TypeAlias = Literal["tuned", "base", "both"]
Process: TypeAlias = LlamaServer | VllmServer

CONTEXT: Final = 4096
"""Tokens of prompt and answer that a request may have, if the memory allows it and the model knows
as many; more if the run was trained on longer rows. Editors send less around a cursor."""
LEAST_CONTEXT: Final = 1024
"""With fewer an editor's prompt is mostly cut off."""
SLOTS: Final = 2
"""Requests that are answered at a time: an editor hangs up on one and sends the next."""
SLACK_BYTES: Final = 300_000_000
"""llama.cpp's own buffers, and a Python process for each model."""
VLLM_SLACK_BYTES: Final = 1_500_000_000
"""vLLM's own buffers, and its three processes, each with PyTorch."""
LOAD: Final = "load"
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
DEFAULT_QUANTISATION: Final[Quantisation] = "q8_0"
INSTALL: Final = 'pip install "repotune[gguf]"'


class Serving:
    """A server that runs until the ``with`` block is left, with a process for each model."""

    def __init__(self, served: Served, processes: Mapping[str, Process]) -> None:
        self.served, self.processes = served, processes

    def wait(self, seconds: float = 1.0) -> None:
        """Sleep, then raise ExportError if a model's process has ended meanwhile."""
        time.sleep(seconds)
        for name, process in self.processes.items():
            if process.has_ended:
                raise ExportError(
                    f"The process that answers for {name} has ended: start `repotune serve` again, "
                    "and report it if that happens twice."
                )


@contextmanager
def serve(
    run: str | Path, *, which: Which = "tuned", step: int | None = None, port: int = 8012,
    token: str | None = None, engine: Engine = "llama.cpp",
    quantisation: Quantisation | None = None, write_config: Path | None = None,
    emit: Emit = ignore,
) -> Iterator[Serving]:  # fmt: skip
    """Serve the run's tuned model, its base, or both; ready when the block is entered.

    ``step`` takes the kept checkpoint of that step in the adapter's place; ``port`` 0 takes any
    that is free; ``token`` None makes a random one; ``engine`` computes, llama.cpp from a file in
    ``quantisation`` (None: q8_0), vLLM from 16-bit weights; ``write_config`` is a folder for
    editors' settings.

    Raises UsageError for a port in use, a token that no header carries or a folder with files of
    the user's, RunError if the run has no such adapter, ModelError if its base model moved or
    changed, DiskFull and DoesNotFit where there is no room, ExportError if the engine is not
    installed, computes something else than our decoder, or does not serve.
    """
    from repotune.serving import Door, editor_settings, refuse_others_files, write_settings

    token = _checked_token(token)
    if write_config is not None:
        refuse_others_files(write_config)
    program = _engine(engine, quantisation)
    found = find_run(run, Path.cwd())
    if which != "base":
        found.refuse_no_adapter(step, ", or serve the base model with --base")
    elif step is not None:
        raise UsageError("--step says which tuned model, and --base serves none: give one of them.")
    with ExitStack() as stack:
        door = Door(port, token, emit)
        stack.callback(door.close)
        files, models, processes = _start(
            found, which, step, program, quantisation or DEFAULT_QUANTISATION, stack, emit
        )
        door.open(models)
        stack.callback(door.close)  # before its models end, which takes vLLM some seconds
        trials = tuple(_try(door.address, token, model) for model in models)
        settings = {}
        if models[0].fim_names is None:
            emit(Notice(message=f"{found.path.name}'s model {NO_EDITOR}"))
        else:
            settings = editor_settings(
                door.address, token, {one.name: one.fim_names is not None for one in models},
                has_chat=models[0].has_chat, context=models[0].context,
            )  # fmt: skip
        if write_config is not None:
            write_settings(write_config, settings)
        served = Served(
            address=door.address, token=token, models=NAMES[which],
            files={name: str(file.path) for name, file in files.items()},
            proofs={name: file.proof for name, file in files.items() if file.proof},
            unchecked=tuple(file.why_not for file in files.values() if file.why_not),
            context=models[0].context,
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


def _engine(engine: Engine, quantisation: Quantisation | None) -> Path | None:
    """vLLM's program; None for llama.cpp. Raises ExportError if it is not installed."""
    if engine == "llama.cpp":
        if version() is None:
            raise ExportError(
                f"llama.cpp, which serves the model, is not installed: run `{INSTALL}`."
            )
        return None
    if quantisation is not None:
        raise UsageError("--quantisation is for llama.cpp; vLLM has 16-bit weights.")
    program = find_vllm()
    if program is None:
        raise ExportError(
            "There is no program `vllm` on PATH: install vLLM in an environment of its own and put "
            "its bin folder on PATH (Linux), or serve by llama.cpp, without --engine."
        )
    return program


def _start(
    run: RunFolder, which: Which, step: int | None, program: Path | None,
    quantisation: Quantisation, stack: ExitStack, emit: Emit,
) -> tuple[dict[str, ProvedModel], list[ServedModel], dict[str, Process]]:  # fmt: skip
    """The models, made where they are not there yet, each in a process of llama.cpp, or of vLLM's
    ``program``."""
    from repotune.machine import free_gpu_bytes
    from repotune.serving import ServedModel
    from repotune.tokens import gguf_metadata, load_tokenizer
    from repotune.tokens.gguf_metadata import CHAT_TEMPLATE

    # A GPU is vLLM's: our process asks the driver, and takes none of its memory.
    job = settle(run.state(), without_notices(emit), uses_gpu=False)
    gpu_free = None if program is None else free_gpu_bytes()
    free = job.machine.ram_free_bytes if gpu_free is None else gpu_free
    base = Path(job.base.path)
    tokenizer = gguf_metadata(base, job.shape.vocab_size, add_fim=job.add_fim)
    names = NAMES[which]
    bits = quantisation if program is None else None
    context = _context(job, len(names), bits, free, emit)
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
    begin = _Begin(run, job, tokenizer, step, context, scratch, stack, emit)
    if program is None:
        began = begin.llama_cpp(names, quantisation)
    else:
        began = begin.vllm(names, program, compiled=gpu_free is not None)
    models = []
    for name, (_, _, upstream) in began.items():
        # The base model itself was not taught the tokens that the run has added.
        reads = job.tokenizer if name == "tuned" else load_tokenizer(base)
        fim, written = reads.fim, tokenizer["tokenizer.ggml.tokens"]
        models.append(
            ServedModel(
                name=name,
                upstream=upstream,
                tokenizer=reads,
                fim_names=(written[fim.prefix_id], written[fim.suffix_id], written[fim.middle_id])
                if fim else None,
                has_chat=CHAT_TEMPLATE in tokenizer,
                context=context,
            )
        )  # fmt: skip
    made = {name: one for name, (one, _, _) in began.items()}
    return made, models, {name: process for name, (_, process, _) in began.items()}


@dataclass(frozen=True, slots=True)
class _Begin:
    """Makes the models of a run and starts a process for each."""

    run: RunFolder
    job: Job
    tokenizer: Mapping[str, Any]
    step: int | None
    context: int
    scratch: Path
    stack: ExitStack
    """Ends the processes."""
    emit: Emit

    def llama_cpp(
        self, names: Sequence[str], quantisation: Quantisation
    ) -> Mapping[str, tuple[ProvedModel, Process, Upstream]]:
        """A GGUF file for each, made and proved before any is served."""
        from repotune.serving import Upstream
        from repotune.stages import gguf_file

        files = {}
        with self.run.locked():
            for name in names:
                with self._adapter(name) as (kind, adapter):
                    files[name] = gguf_file(
                        self.run, self.job, self.tokenizer, kind=kind, adapter=adapter,
                        quantisation=quantisation, emit=self.emit,
                    )  # fmt: skip
        began = {}
        for name, file in files.items():
            self.emit(StageStarted(stage=LOAD))
            server = self.stack.enter_context(
                LlamaServer(file.path, context=self.context, slots=SLOTS, scratch=self.scratch)
            )
            began[name] = file, server, Upstream(address=server.address, key=server.key)
            self.emit(StageDone(stage=LOAD, summary=f"{name}: {file.path.name}"))
        return began

    def vllm(
        self, names: Sequence[str], program: Path, *, compiled: bool
    ) -> Mapping[str, tuple[ProvedModel, Process, Upstream]]:
        """A folder for each; the server that is started is the one that proves it."""
        from repotune.serving import VllmUpstream
        from repotune.stages import served_by_vllm, vllm_folder

        began, folders = {}, {}
        with self.run.locked():
            for name in names:
                with self._adapter(name) as (kind, adapter):
                    folders[name] = vllm_folder(
                        self.run, self.job, kind=kind, adapter=adapter, emit=self.emit
                    )
            for name, folder in folders.items():
                model, server = served_by_vllm(
                    folder, self.job, program, name=name, context=self.context, slots=SLOTS,
                    compiled=compiled, scratch=self.scratch, emit=self.emit,
                )  # fmt: skip
                self.stack.enter_context(server)
                upstream = VllmUpstream(address=server.address, model=name, context=self.context)
                began[name] = model, server, upstream
        return began

    @contextmanager
    def _adapter(self, name: str) -> Iterator[tuple[str, Path | None]]:
        """What the model is called on disk, and its adapter; the base has none."""
        from repotune.stages import adapter_folder

        if name == "base":
            yield name, None
            return
        with adapter_folder(self.run, self.job, self.step) as adapter:
            yield name if self.step is None else f"step{self.step}", adapter


def _context(job: Job, models: int, bits: Quantisation | None, free: int, emit: Emit) -> int:
    """Tokens of a request: as many as the model knows and the ``free`` bytes of memory allow.

    ``bits`` None: by vLLM. Raises DoesNotFit if weights, keys and values do not fit into it with
    the least there is.
    """
    wanted = min(max(CONTEXT, job.config.max_seq_length), job.shape.max_position_embeddings)
    context = wanted
    while _bytes(job, models, bits, context) > free and context // 2 >= LEAST_CONTEXT:
        context //= 2
    need = _bytes(job, models, bits, context)
    if need > free:
        fewer = ", or take fewer bits with --quantisation"
        if bits is None:
            fewer = ", or serve by llama.cpp, which takes fewer bits"
        elif bits == "q4_k_m":
            fewer = ""
        raise DoesNotFit(
            f"Serving takes {need / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB is free: "
            f"close other programs{fewer}."
        )
    if context < wanted:
        emit(
            Notice(
                message=f"A request may have {context:,} tokens instead of {wanted:,}, since "
                f"{free / 2**30:.1f} GiB of memory is free: close other programs for more."
            )
        )
    return context


def _bytes(job: Job, models: int, quantisation: Quantisation | None, context: int) -> int:
    """Of memory: each model's weights (None: vLLM's), and the keys and values of its slots."""
    from repotune.export import merged_bytes, model_bytes

    if quantisation is None:
        kept = merged_bytes(job.shape) + VLLM_SLACK_BYTES
    else:
        kept = model_bytes(job.shape, quantisation) + SLACK_BYTES
    return models * (kept + job.shape.cached_token_bytes * context * SLOTS)


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
        raise ExportError(
            f"The server gave no answer to its first request ({error!r}): start `repotune serve` "
            "again, and report it, with this message, if that happens twice."
        ) from None
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
