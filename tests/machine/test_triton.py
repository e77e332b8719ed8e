"""What Triton lacks is seen without it."""

import sys
from pathlib import Path

import pytest

from repotune.machine import probe, triton
from repotune.machine.triton import TritonFault


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(triton, "find_spec", lambda name: object())
    monkeypatch.setattr(triton.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(triton.sysconfig, "get_path", lambda name: "/nowhere")


def test_what_is_not_installed_cannot_lack_anything(monkeypatch):
    monkeypatch.setattr(triton, "find_spec", lambda name: None)
    assert triton.what_is_missing() == TritonFault(key="triton_uninstalled")
    assert not probe(uses_gpu=False).triton


@pytest.mark.skipif(sys.platform == "win32", reason="Windows' Triton has a compiler of its own")
def test_a_compiler_and_headers_are_what_it_needs(installed, tmp_path, monkeypatch):
    assert triton.what_is_missing() == TritonFault(
        key="triton_no_headers", detail=str(Path("/nowhere/Python.h"))
    )
    monkeypatch.setattr(triton.sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "Python.h").touch()
    assert triton.what_is_missing() is None
    assert probe(uses_gpu=False).triton
    monkeypatch.setattr(triton.shutil, "which", lambda name: None)
    assert triton.what_is_missing() == TritonFault(key="triton_no_compiler", detail="gcc or clang")
    assert not probe(uses_gpu=False).triton


@pytest.mark.skipif(sys.platform == "win32", reason="Windows' Triton has a compiler of its own")
def test_the_compiler_that_cc_names_is_the_one_that_counts(installed, tmp_path, monkeypatch):
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(triton.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(triton.shutil, "which", lambda name: name if name == "icx" else None)
    assert triton.what_is_missing("icx") is None
    monkeypatch.setattr(triton.shutil, "which", lambda name: name if name == "gcc" else None)
    assert triton.what_is_missing() is None
    assert triton.what_is_missing("icx") == TritonFault(key="triton_no_compiler", detail="CC=icx")


def test_on_windows_it_brings_its_own(installed, monkeypatch):
    monkeypatch.setattr(triton.sys, "platform", "win32")
    assert triton.what_is_missing() is None
