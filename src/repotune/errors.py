"""Every error that is the user's to mend, as one tree.

    RepotuneError            exit code 1: the work failed
    ├── UsageError           exit code 2: the command or its arguments are wrong
    │   └── ConfigError      a key, a value or a combination of FineTuningConfig
    ├── CorpusError          the source tree cannot be read or holds nothing to learn from
    ├── TokenizerError       a tokenizer that is missing, damaged or not byte-exact
    ├── ModelError           a model that is missing, damaged, unsafe or of another architecture
    │   └── DownloadError    the model hub did not answer, or does not have it
    ├── RunError             a run folder that is missing, in use, or edited by hand
    │   └── CheckpointError  a checkpoint that is damaged or belongs to another run
    ├── DoesNotFit           not enough memory for any way to do it
    ├── DiskFull             not enough disk for what is about to be written
    ├── SandboxError         a program that a model wrote cannot be run safely here
    ├── ExportError          what was made for another program is not what it should be
    ├── Interrupted          Ctrl-C or SIGTERM ended the work before it was done
    └── TrainingError        the training cannot go on (a loss that is not a number, for instance)

Each message is one sentence that says what is wrong, with numbers, and what to do.
The command line prints ``error: <message>``; a traceback is a bug of repotune.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "CorpusError",
    "DiskFull",
    "DoesNotFit",
    "DownloadError",
    "ExportError",
    "Interrupted",
    "ModelError",
    "RepotuneError",
    "RunError",
    "SandboxError",
    "TokenizerError",
    "TrainingError",
    "UsageError",
]


class RepotuneError(Exception):
    """Something the user can mend; the message says what is wrong and what to do."""

    exit_code = 1


class UsageError(RepotuneError):
    """The command or its arguments are wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A key, a value or a combination in the configuration is not allowed."""


class CorpusError(RepotuneError):
    """The source tree cannot be read, or holds nothing to learn from."""


class TokenizerError(RepotuneError):
    """A tokenizer is missing, damaged, or does not give a file back byte for byte."""


class ModelError(RepotuneError):
    """A model is missing, damaged, unsafe to load, or of an architecture we cannot train."""


class DownloadError(ModelError):
    """The model hub did not answer, or does not have what was asked for."""


class RunError(RepotuneError):
    """A run folder is missing, in use by another process, or not what it says it is."""


class CheckpointError(RunError):
    """A checkpoint is damaged or belongs to another run."""


class DoesNotFit(RepotuneError):
    """No way to do the work fits into the memory there is."""


class DiskFull(RepotuneError):
    """There is not enough disk for what is about to be written."""


class ExportError(RepotuneError):
    """A format has no place for the model, or the other side computes something else from it."""


class SandboxError(RepotuneError):
    """A program that a model wrote cannot be locked in on this system, and so is not run."""


class Interrupted(RepotuneError):
    """Ctrl-C or SIGTERM ended the work before it was done; the message says how to go on."""


class TrainingError(RepotuneError):
    """The training cannot go on."""
