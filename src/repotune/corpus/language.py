"""The language of a file, by its name or its first line; names and types are GitHub Linguist's."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

from identify import identify

Kind: TypeAlias = Literal["programming", "markup", "data", "prose"]


@dataclass(frozen=True, slots=True)
class Language:
    """A language that can be learned from."""

    name: str
    kind: Kind

    @property
    def is_code(self) -> bool:
        """Whether a folder that holds only this is a folder of code."""
        return self.kind in ("programming", "markup")

    @property
    def words_are_names(self) -> bool:
        """Whether a word without quotes is a name and not a value."""
        return self.kind == "programming" and self.name not in _BARE_STRINGS


_BARE_STRINGS = frozenset({"Batchfile", "Dockerfile", "fish", "Makefile", "Shell", "Tcl"})
"""Programming languages in which a word without quotes is a string."""

# Name -> identify's tags for it, and extensions (with a dot) where identify says nothing better.
# A file can have several tags; the language that stands first here wins.
_LANGUAGES: dict[Kind, dict[str, str]] = {
    "programming": {
        "Objective-C++": "objective-c++",  # also tagged c++
        "Objective-C": "objective-c",
        "Ada": ".adb .ads",
        "ANTLR": ".g4",
        "AspectJ": "aspectj",
        "Assembly": "asm .nasm",
        "Awk": "awk .awk",
        "Batchfile": "batch",
        "BitBake": "bitbake",
        "C": "c",
        "C#": "c#",
        "C++": "c++",
        "Clojure": "clojure",
        "CMake": "cmake",
        "COBOL": ".cob .cbl",
        "CoffeeScript": "coffee",
        "Common Lisp": ".lisp .lsp",
        "Crystal": "crystal",
        "CUE": "cue",
        "Cuda": "cuda",
        "Cython": "cython",
        "D": ".d",
        "Dart": "dart",
        "Dockerfile": "dockerfile",
        "Elixir": "elixir",
        "Elm": "elm",
        "Emacs Lisp": ".el",
        "Erlang": "erlang",
        "F#": "f# .fsi",
        "fish": "fish",
        "Fortran": "fortran .f .for .f77",
        "GDScript": "gdscript",
        "Gherkin": "gherkin",
        "Gleam": "gleam",
        "GLSL": ".glsl .vert .frag .comp",
        "Go": "go",
        "Groovy": "groovy",
        "Haskell": "haskell",
        "Haxe": ".hx",
        "HCL": "terraform hcl",
        "HLSL": "hlsl",
        "Idris": "idris",
        "Java": "java",
        "JavaScript": "javascript jsx",
        "Jsonnet": "jsonnet",
        "Julia": "julia",
        "Kotlin": "kotlin",
        "Lean": "lean",
        "Lex": ".l .ll .lex",
        "Lua": "lua",
        "Luau": "luau",
        "M4": "m4",
        "Makefile": "makefile",
        "Meson": "meson",
        "Metal": "metal",
        "Mojo": ".mojo",
        "Nim": "nim",
        "Nix": "nix",
        "Nushell": "nushell",
        "OCaml": "ocaml",
        "Pascal": "pascal",
        "Perl": "perl",
        "PHP": "php",
        "PowerShell": "powershell",
        "Prolog": ".pro .prolog",
        "Puppet": "puppet",
        "PureScript": "purescript",
        "Python": "python pyi",
        "QML": "qml",
        "R": "r",
        "Racket": ".rkt",
        "RobotFramework": "robot",
        "Ruby": "ruby",
        "Rust": "rust",
        "SaltStack": "salt",
        "SAS": "sas",
        "Scala": "scala",
        "Scheme": "scheme",
        "Shell": "shell",
        "Solidity": "solidity",
        "SQL": "sql",
        "Standard ML": ".sml",
        "Starlark": "bazel .star",
        "Swift": "swift",
        "SystemVerilog": "system-verilog",
        "Tcl": "expect .tcl",
        "Thrift": "thrift",
        "TypeScript": "ts tsx .mts .cts",
        "Vala": "vala",
        "Verilog": "verilog",
        "VHDL": "vhdl",
        "Vim Script": "vim",
        "Visual Basic .NET": "vb",
        "WebAssembly": ".wat",
        "WGSL": ".wgsl",
        "XQuery": "xquery",
        "Yacc": ".y .yy",
        "Zig": "zig",
    },
    "markup": {
        "Astro": "astro",
        "CSS": "css",
        "EJS": "ejs",
        "Handlebars": "handlebars mustache",
        "HTML": "html",
        "HTML+ERB": "erb",
        "Jinja": "jinja",
        "Less": "less",
        "Liquid": "liquid",
        "Pug": "pug jade",
        "Sass": "sass",
        "SCSS": "scss",
        "Stylus": "stylus",
        "Svelte": "svelte",
        "TeX": "tex",
        "Twig": "twig",
        "Vue": "vue",
    },
    "data": {
        "EditorConfig": "editorconfig",
        "GraphQL": "graphql .gql",
        "Ignore List": "gitignore dockerignore",
        "INI": "ini .cfg .conf .cnf",
        "Java Properties": "java-properties",
        "JSON": "json",
        "Prisma": "prisma",
        "Protocol Buffer": "proto",
        "TOML": "toml",
        "XML": "xml",
        "YAML": "yaml",
    },
    "prose": {
        "AsciiDoc": "asciidoc",
        "Markdown": "markdown mdx",
        "reStructuredText": "rst",
        "Text": "plain-text",
    },
}

_NO_LANGUAGE = frozenset({"jupyter", "svg", "geojson", "kml", "gpx", "pem", "go-sum"})
"""Tags of what is JSON, XML or text inside, and neither written nor read as code."""

_BY_KEY = {
    key: Language(name, kind)
    for kind, languages in _LANGUAGES.items()
    for name, keys in languages.items()
    for key in keys.split()
}


def language_of(name: str, content: bytes) -> Language | None:
    """The language of the file called ``name``, or None if it is none to learn from.

    ``content`` is asked for a ``#!`` line if the name says nothing.
    """
    own = _BY_KEY.get(PurePosixPath(name).suffix.lower())
    if own is not None:
        return own
    tags = identify.tags_from_filename(name)
    if not tags and content.startswith(b"#!"):
        command = identify.parse_shebang(io.BytesIO(content))
        tags = identify.tags_from_interpreter(command[0]) if command else set()
    if tags & _NO_LANGUAGE:
        return None
    return next((language for key, language in _BY_KEY.items() if key in tags), None)


def is_binary_name(name: str) -> bool:
    """Whether the name alone says that the file is no text: a picture, an archive, a program."""
    return identify.BINARY in identify.tags_from_filename(name)
