"""A source tree becomes documents: walk, decode, filters, secrets, duplicates, split.

Read ``build.build_corpus`` first; each step is a file of its own. What became of every file, and
why, is in the manifest that lies beside the documents.
"""

from repotune.corpus.build import build_corpus
from repotune.corpus.duplicates import repeated
from repotune.corpus.store import read_canaries, read_documents, read_manifest, read_summary

__all__ = [
    "build_corpus",
    "read_canaries",
    "read_documents",
    "read_manifest",
    "read_summary",
    "repeated",
]
