"""A tuned model at an address on loopback: the door, what it lets through, settings for editors.

``door`` is the HTTP server and its checks; ``requests`` turns what a client asks into what
llama.cpp is asked, ``fields`` checks each value; ``upstream`` is one request to llama.cpp,
``vllm_upstream`` one to vLLM, ``answers`` its events as one object; ``editors`` the settings.
"""

from repotune.serving.door import Door
from repotune.serving.editors import editor_settings, refuse_others_files, write_settings
from repotune.serving.requests import ServedModel
from repotune.serving.upstream import Upstream
from repotune.serving.vllm_upstream import VllmUpstream

__all__ = [
    "Door",
    "ServedModel",
    "Upstream",
    "VllmUpstream",
    "editor_settings",
    "refuse_others_files",
    "write_settings",
]
