"""Downloading a model from the hub: weights as safetensors, configuration and tokenizer only.

The only file that imports ``huggingface_hub``, which keeps what was downloaded, goes on with a
download that broke off, and reads the user's ``HF_*`` settings. It is imported when needed, since
it takes half a second.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repotune.errors import DiskFull, DownloadError, ModelError
from repotune.events import Emit, StageDone, StageProgress, StageStarted

if TYPE_CHECKING:
    from tqdm import tqdm

WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
"""Never code, never pickles; ``tokenizer.json`` holds what the tokenizer needs."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
STAGE = "download"


def download(
    name: str, *, revision: str | None, offline: bool, cache: Path | None, emit: Emit
) -> tuple[Path, str]:
    """The folder of the hub model ``name`` and its commit; downloads what is not there yet.

    Raises DownloadError when the hub, the model or the revision cannot be reached, ModelError when
    the model has no safetensors, DiskFull when there is no room for it.
    """
    with _explained(name, revision):
        if offline:
            return _cached(name, revision, cache)
        from huggingface_hub import HfApi

        info = HfApi().model_info(name, revision=revision, files_metadata=True)
        commit = info.sha
        assert commit is not None
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        files = _wanted(name, sizes)
        return _fetch(name, commit, {file: sizes[file] for file in files}, cache, emit), commit


def _cached(name: str, revision: str | None, cache: Path | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(
            name,
            revision=revision,
            cache_dir=cache,
            local_files_only=True,
            allow_patterns=[*WANTED],
        )
    )
    return folder, folder.name


def _wanted(name: str, files: Iterable[str]) -> list[str]:
    """The files to fetch; those in sub-folders are other formats of the same weights."""
    top = [file for file in files if "/" not in file]
    if not any(file.endswith(".safetensors") for file in top):
        pickled = any(fnmatch(file, pattern) for file in top for pattern in PICKLES)
        raise ModelError(
            f"{name} has its weights only as pickle, which can run code when it is read: "
            "choose a model with .safetensors files."
            if pickled
            else f"{name} has no .safetensors weights: choose a model that has."
        )
    if "model.safetensors.index.json" not in top and "model.safetensors" in top:
        top = [f for f in top if f == "model.safetensors" or not f.endswith(".safetensors")]
    return sorted(file for file in top if any(fnmatch(file, pattern) for pattern in WANTED))


def _fetch(name: str, commit: str, sizes: dict[str, int], cache: Path | None, emit: Emit) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    lacking = {
        file: size
        for file, size in sizes.items()
        if not isinstance(try_to_load_from_cache(name, file, cache_dir=cache, revision=commit), str)
    }
    room = Path(cache or HF_HUB_CACHE)
    _check_room(name, sum(lacking.values()), room)
    total = sum(sizes.values())
    done = total - sum(lacking.values())
    emit(StageStarted(stage=STAGE, total=total, unit="bytes"))
    path = Path()
    for file in sizes:
        bar = _progress(emit, done)
        path = Path(hf_hub_download(name, file, revision=commit, cache_dir=cache, tqdm_class=bar))
        done += lacking.get(file, 0)
        emit(StageProgress(stage=STAGE, done=done))
    emit(StageDone(stage=STAGE, summary=f"{name} at {commit[:12]}, {total / 1e9:.2f} GB"))
    return path.parent


def _check_room(name: str, need: int, folder: Path) -> None:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if need > free:
        raise DiskFull(
            f"{name} needs {need / 1e9:.1f} GB on the disk of {folder}, and {free / 1e9:.1f} GB "
            "are free: free some space, or move the cache with HF_HOME."
        )


def _progress(emit: Emit, before: int) -> type[tqdm[Any]]:
    """A tqdm that shows nothing and reports the bytes of one file as events."""
    from tqdm import tqdm

    class Reporter(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # the hub library's own tqdm takes it, tqdm does not
            super().__init__(*args, **{**kwargs, "disable": True})
            self._bytes = int(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            self._bytes += int(n or 0)
            emit(StageProgress(stage=STAGE, done=before + self._bytes))
            return None

    return Reporter


@contextmanager
def _explained(name: str, revision: str | None) -> Iterator[None]:
    """Turn the hub library's errors into one sentence each."""
    from huggingface_hub import errors

    page = f"the page of {name} on the hub"
    try:
        yield
    except errors.GatedRepoError:
        raise DownloadError(
            f"{name} asks for consent before it is downloaded: agree on {page}, then log in with "
            "`hf auth login`."
        ) from None
    except errors.RevisionNotFoundError:
        raise DownloadError(
            f"{name} has no revision {revision!r}: look up its branches and tags on {page}."
        ) from None
    except errors.RepositoryNotFoundError:
        raise DownloadError(
            f"The hub has no model {name}, or it is private: check the name, or log in with "
            "`hf auth login`."
        ) from None
    except errors.LocalEntryNotFoundError:
        raise DownloadError(
            f"{name} is not on this disk, or not all of it, and the hub was not reached: "
            "connect to the network and leave out --offline."
        ) from None
    except (errors.HTTPError, OSError) as error:
        raise DownloadError(
            f"The download of {name} broke off ({type(error).__name__}): check the network and "
            "start again, it goes on where it stopped."
        ) from None
