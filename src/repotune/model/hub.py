"""Downloading a model from the hub: weights as safetensors, configuration and tokenizer only.

The only file that imports ``huggingface_hub``: its cache, which other programs share, its log-in
and the user's ``HF_*`` settings are used as they are. The bytes are fetched here, since the library
throws the beginning of a file away when a download breaks off. The library takes a third of a
second to import, so this file is imported when it is needed.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from huggingface_hub import (
    HfApi,
    constants,
    errors,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined] # documented, unmarked
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    WeakFileLock,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from repotune.errors import DiskFull, DownloadError, ModelError
from repotune.events import Emit, StageDone, StageProgress, StageStarted
from repotune.model.shape import CONFIG_FILE, config_shape, read_json
from repotune.model.weights import INDEX_FILE, PICKLES, SINGLE_FILE, shard_names

TEXTS: Final = (
    CONFIG_FILE,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
"""What is wanted beside the weights: never code; ``tokenizer.json`` is all the tokenizer needs."""
STAGE: Final = "download"
EVENT_BYTES: Final = 4 * 2**20
"""Progress is told this often, not at each of the network's small pieces."""
SHA256: Final = re.compile(r"[0-9a-f]{64}")


def download(
    name: str, *, revision: str | None, offline: bool, cache: Path | None, emit: Emit
) -> tuple[Path, str]:
    """The folder of the hub model ``name`` and its commit; downloads what is not there yet.

    ``offline`` (or the user's ``HF_HUB_OFFLINE``) opens no connection and takes what is in the
    cache. Raises DownloadError when the hub, the model or the revision cannot be reached,
    ModelError when the model has no safetensors, DiskFull when there is no room for it.
    """
    cache = cache or Path(constants.HF_HUB_CACHE)
    with _explained(name, revision):
        if offline or constants.HF_HUB_OFFLINE:
            return _cached(name, revision, cache)
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
        if info.sha is None:
            raise DownloadError(f"The hub names no commit of {name}: try again later.")
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        if CONFIG_FILE not in sizes:
            raise ModelError(
                f"{name} has no {CONFIG_FILE}: choose a model that transformers loads."
            )
        files = [
            *(file for file in TEXTS if file in sizes),
            *_weights(name, info.sha, sizes, cache),
        ]
        folder = _fetch(name, info.sha, {file: sizes[file] for file in files}, cache, emit)
        # Asked for by branch or tag, the library notes the commit: --offline looks it up there.
        hf_hub_download(name, files[0], revision=revision, cache_dir=cache)
        return folder, info.sha


def _cached(name: str, revision: str | None, cache: Path) -> tuple[Path, str]:
    folder = Path(
        snapshot_download(
            name,
            revision=revision,
            cache_dir=cache,
            local_files_only=True,
            allow_patterns=[*TEXTS, "*.safetensors", INDEX_FILE],
        )
    )
    return folder, folder.name


def _weights(name: str, commit: str, files: Mapping[str, int], cache: Path) -> list[str]:
    """The weight files to fetch; others beside them are further formats of the same weights."""
    if SINGLE_FILE in files:
        return [SINGLE_FILE]
    if INDEX_FILE not in files:
        pickled = any("/" not in file and file.endswith(PICKLES) for file in files)
        raise ModelError(
            f"{name} has its weights only as pickle, which can run code when it is read: "
            "choose a model with .safetensors files."
            if pickled
            else f"{name} has no .safetensors weights: choose a model that has."
        )
    shards = shard_names(_fetch_file(name, INDEX_FILE, commit, cache, lambda at: None))
    for shard in shards:
        if shard not in files:
            raise ModelError(
                f"{name} lacks {shard}, one of the {len(shards)} weight files that its "
                f"{INDEX_FILE} names: choose another revision."
            )
    return [INDEX_FILE, *shards]


def _fetch(name: str, commit: str, sizes: Mapping[str, int], cache: Path, emit: Emit) -> Path:
    lacking = {
        file: size
        for file, size in sizes.items()
        if not isinstance(try_to_load_from_cache(name, file, cache_dir=cache, revision=commit), str)
    }
    _check_room(name, sum(lacking.values()), cache)
    total = sum(sizes.values())
    done = total - sum(lacking.values())
    emit(StageStarted(stage=STAGE, total=total, unit="bytes"))
    path = Path()
    for file in sizes:
        before = done

        def tell(at: int, before: int = before) -> None:
            emit(StageProgress(stage=STAGE, done=before + at))

        path = _fetch_file(name, file, commit, cache, tell)
        if file == CONFIG_FILE:  # the first: what cannot be trained is not downloaded
            config_shape(read_json(path), path)
        done += lacking.get(file, 0)
        tell(lacking.get(file, 0))
    emit(StageDone(stage=STAGE, summary=f"{name} at {commit[:12]}, {total / 1e9:.2f} GB"))
    return path.parent


def _fetch_file(
    name: str, file: str, commit: str, cache: Path, tell: Callable[[int], None]
) -> Path:
    """Where a file lies in the cache; its bytes are fetched if they are not there yet."""
    found = try_to_load_from_cache(name, file, cache_dir=cache, revision=commit)
    if isinstance(found, str):
        return Path(found)
    blob = _fetch_blob(name, file, commit, cache, tell)
    path = Path(hf_hub_download(name, file, revision=commit, cache_dir=cache))
    if blob is not None and not path.is_symlink():
        blob.unlink()  # where there are no links (Windows), the library has made a copy
    return path


def _fetch_blob(
    name: str, file: str, commit: str, cache: Path, tell: Callable[[int], None]
) -> Path | None:
    """Put a file's bytes where the cache keeps them, from where an earlier download broke off.

    The library finds them there and gives them their name. The layout is the documented one
    ("Understand caching"): blobs, named by the hub's etag. None: they were there already.
    """
    url = hf_hub_url(name, file, revision=commit)
    metadata = get_hf_file_metadata(url)
    if metadata.etag is None or metadata.size is None:
        raise DownloadError(f"The hub does not say how large {file} of {name} is: try again later.")
    model = f"models--{name.replace('/', '--')}"
    blob = cache / model / "blobs" / metadata.etag
    lock = cache / ".locks" / model / f"{metadata.etag}.lock"
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return None
        partial = blob.with_name(f"{metadata.etag}.partial")
        with partial.open("ab") as out:
            _fetch_rest(url, out, metadata.size, tell)
        # The etag of a large file is its SHA-256.
        if SHA256.fullmatch(metadata.etag) and _sha256(partial) != metadata.etag:
            partial.unlink()
            raise DownloadError(f"{file} of {name} arrived damaged: start again.")
        partial.replace(blob)
    return blob


def _fetch_rest(url: str, out: BinaryIO, size: int, tell: Callable[[int], None]) -> None:
    """Append what is lacking; a connection that breaks is opened again while bytes still come."""
    if out.tell() > size:
        out.truncate(0)
    while out.tell() < size:
        start = out.tell()
        try:
            _append(url, out, tell)
        except HTTPError:
            if out.tell() <= start:
                raise
        else:
            if out.tell() != size:
                out.truncate(0)
                raise DownloadError(
                    f"The hub sent other than the {size:,} bytes of {url}: start again."
                )


def _append(url: str, out: BinaryIO, tell: Callable[[int], None]) -> None:
    # Compressed on the way, a file could not be gone on with in the middle.
    headers = {**build_hf_headers(), "Range": f"bytes={out.tell()}-", "Accept-Encoding": "identity"}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:  # from the beginning: the server knows no ranges
            out.truncate(0)
        told = 0
        for chunk in response.iter_raw():
            out.write(chunk)
            if out.tell() >= told + EVENT_BYTES:
                told = out.tell()
                tell(told)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _check_room(name: str, need: int, folder: Path) -> None:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if need > free:
        raise DiskFull(
            f"{name} needs {need / 1e9:.1f} GB on the disk of {folder}, and {free / 1e9:.1f} GB "
            "are free: free some space, or move the cache with HF_HOME."
        )


@contextmanager
def _explained(name: str, revision: str | None) -> Iterator[None]:
    """Turn the hub library's errors into one sentence each."""
    page = f"the page of {name} on the hub"
    try:
        yield
    except errors.HFValidationError:
        raise DownloadError(
            f"{name} is not a name that the hub can have: check the spelling."
        ) from None
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
    except (HTTPError, OSError) as error:
        raise _broken_off(name, error) from None


def _broken_off(name: str, error: Exception) -> DownloadError | DiskFull:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DiskFull(
            f"The disk is full before {name} is downloaded: free some space and start again, it "
            "goes on where it stopped."
        )
    if isinstance(error, OSError) and error.filename is not None:
        return DownloadError(
            f"The download of {name} cannot be kept in {error.filename} ({error.strerror}): move "
            "the cache with HF_HOME to a folder that you may write to."
        )
    return DownloadError(
        f"The download of {name} broke off ({type(error).__name__}): check the network and "
        "start again, it goes on where it stopped."
    )
