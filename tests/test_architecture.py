"""The architecture as a test: floors, who may know torch, one door per third party, sizes."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest

import repotune

if sys.version_info >= (3, 11):
    import tomllib as toml
else:
    import tomli as toml

SOURCE = Path(repotune.__file__).parent

FLOOR = {
    "errors": 0, "records": 0, "events": 0,
    "durable": 1, "gguf_file": 1, "local_http": 1, "signals": 1, "tables": 1, "verdict_text": 1,
    "runs": 2, "config": 2, "llama_cpp": 2, "sandbox": 2, "vllm": 2,
    "corpus": 3, "tokens": 3, "machine": 3, "kernels": 3, "planning": 3,
    "model": 4,
    "training": 5, "evaluation": 5, "export": 5, "serving": 5, "job": 5, "survey": 5,
    "forecast": 5, "requirements": 5, "report": 5,
    "stages": 6,
    "pipeline": 7, "preflight": 7, "handover": 7, "verify": 7, "reporting": 7, "serve": 7,
    "cli": 8, "web": 8, "__init__": 8,
    "__main__": 9,
}  # fmt: skip

TORCH_ANYWHERE = {"kernels", "model", "training", "evaluation", "export", "serving", "stages"}
TORCH_INSIDE_A_FUNCTION = {"machine", "job", "pipeline", "preflight", "handover", "serve"}

ONE_FILE_EACH = (
    "betterleaks",
    "charset_normalizer",
    "filelock",
    "gguf",
    "huggingface_hub",
    "identify",
    "matplotlib",
    "pathspec",
    "peft",
    "psutil",
    "pydantic",
    "rapidfuzz",
    "rensa",
    "tomli_w",
    "transformers",
    "xllamacpp",
)
ONLY_IN_CLI = ("click", "rich")
COMES_WITH_TORCH = {"triton"}
"""On Linux, with its CUDA builds; ``kernels.select`` says what happens without it."""
OPTIONAL = {"transformers": "check", "peft": "check", "xllamacpp": "gguf", "matplotlib": "report"}
"""Package -> the extra that brings it; imported inside a function that is not reached without."""
A_PROGRAM_OF_ITS_OWN = "sandbox/child.py"
"""Runs in another process, where it executes what a model wrote, and ends with an exit status."""
UNSAFE = ("dill", "joblib", "marshal", "pickle", "shelve")

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 80


@dataclass(frozen=True)
class Import:
    module: str
    inside_function: bool
    for_types_only: bool


@dataclass(frozen=True)
class File:
    path: Path
    tree: ast.Module
    lines: int

    @property
    def room(self) -> str:
        return self.path.relative_to(SOURCE).parts[0].removesuffix(".py")

    @property
    def name(self) -> str:
        return self.path.relative_to(SOURCE).as_posix()

    def imports(self) -> list[Import]:
        return list(_imports(self.tree, inside_function=False, for_types_only=False))

    def third_party(self) -> set[str]:
        roots = {one.module.split(".")[0] for one in self.imports() if not one.for_types_only}
        return roots - set(sys.stdlib_module_names) - {"repotune"}


def _imports(node: ast.AST, *, inside_function: bool, for_types_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            modules = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports name the whole path"
            assert child.module is not None
            # `from repotune import pipeline` names the room in what it imports.
            is_root = child.module == "repotune"
            modules = [f"repotune.{a.name}" if is_root else child.module for a in child.names]
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(
                child,
                inside_function=inside_function or is_function,
                for_types_only=for_types_only or _is_type_checking(child),
            )
            continue
        for module in modules:
            yield Import(module, inside_function, for_types_only)


def _is_type_checking(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


@cache
def files() -> list[File]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(File(path, ast.parse(text, str(path)), text.count("\n")))
    return found


def test_rooms_import_from_lower_floors_only() -> None:
    wrong = []
    for file in files():
        assert file.room in FLOOR, f"{file.name}: give its room a floor"
        for one in file.imports():
            parts = one.module.split(".")
            if parts[0] != "repotune" or parts[1] == file.room:
                continue
            if not FLOOR[parts[1]] < FLOOR[file.room]:
                wrong.append(f"{file.name} must not import {one.module}")
    assert wrong == []


def test_torch_is_imported_only_where_the_table_allows_it() -> None:
    wrong = []
    for file in files():
        for one in file.imports():
            knows_torch = one.module.split(".")[0] == "torch" or one.module == "safetensors.torch"
            allowed = (
                file.room in TORCH_ANYWHERE
                or (file.room in TORCH_INSIDE_A_FUNCTION and one.inside_function)
                or one.for_types_only
            )
            if knows_torch and not allowed:
                wrong.append(f"{file.name} imports {one.module}")
    assert wrong == []


@pytest.mark.parametrize("package", ONE_FILE_EACH)
def test_a_third_party_has_one_door(package: str) -> None:
    doors = [file.name for file in files() if package in file.third_party()]
    assert len(doors) <= 1


def test_the_command_line_is_the_only_face() -> None:
    for file in files():
        assert file.room == "cli" or not file.third_party() & set(ONLY_IN_CLI), file.name


def test_all_that_is_imported_is_a_declared_dependency() -> None:
    declared = {
        re.split(r"[^\w.-]", line)[0].lower().replace("_", "-")
        for line in requires("repotune") or []
        if "extra ==" not in line
    }
    distributions = packages_distributions()
    wrong = []
    for file in files():
        for package in file.third_party() - COMES_WITH_TORCH - set(OPTIONAL):
            # tomli is declared for Python 3.10 only, and may be absent here.
            names = {
                name.lower().replace("_", "-") for name in distributions.get(package, [package])
            }
            if not names & declared:
                wrong.append(f"{file.name} imports {package}")
    assert wrong == []


def test_what_is_optional_is_imported_late_and_has_an_extra() -> None:
    text = (SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    extras = toml.loads(text)["project"]["optional-dependencies"]
    for package, extra in OPTIONAL.items():
        assert any(line.startswith(package) for line in extras[extra]), package
    for file in files():
        for one in file.imports():
            assert one.inside_function or one.module.split(".")[0] not in OPTIONAL, file.name


def test_nothing_is_unpickled_executed_or_asked_whether_it_has_an_attribute() -> None:
    for file in files():
        roots = {one.module.split(".")[0] for one in file.imports()}
        assert not roots & set(UNSAFE), file.name
        called = {
            node.func.id
            for node in ast.walk(file.tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        if file.name == A_PROGRAM_OF_ITS_OWN:
            called.remove("exec")
        assert not called & {"exec", "eval", "hasattr"}, file.name


def test_nothing_below_the_command_line_prints_exits_or_reads_the_environment() -> None:
    wrong = []
    for file in files():
        if file.room in ("cli", "__main__") or file.name == A_PROGRAM_OF_ITS_OWN:
            continue
        for node in ast.walk(file.tree):
            text = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
            if text in (
                "print", "input", "exit", "quit", "SystemExit", "breakpoint",
                "sys.exit", "sys.stdout", "sys.stderr", "sys.argv",
                "os.environ", "os.environb", "os.getenv", "os.putenv", "os._exit",
            ):  # fmt: skip
                wrong.append(f"{file.name}:{node.lineno} uses {text}")
    assert wrong == []


def test_files_and_functions_fit_a_reader() -> None:
    wrong = [f"{file.name}: {file.lines} lines" for file in files() if file.lines > MAX_FILE_LINES]
    for file in files():
        for node in ast.walk(file.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    wrong.append(f"{file.name}: {node.name} has {lines} lines")
    assert wrong == []


def test_no_file_is_named_for_everything() -> None:
    names = {file.path.stem for file in files()}
    assert not names & {"common", "helpers", "manager", "misc", "util", "utils"}


def test_the_public_names_are_these_and_no_others() -> None:
    assert repotune.__all__ == [
        "FineTuningConfig",
        "__version__",
        "complete",
        "evaluate",
        "resume",
        "tune",
    ]
    assert dir(repotune) == sorted(repotune.__all__)
    assert repotune.__version__ == version("repotune")
    for name in ("complete", "evaluate", "resume", "tune"):
        function = getattr(repotune, name)
        assert (function.__module__, function.__name__) == ("repotune.pipeline", name)
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        repotune.train  # noqa: B018


@pytest.mark.parametrize(
    ("code", "too_heavy"),
    [
        ("import repotune", {"torch", "numpy", "pydantic", "click", "rich"}),
        ("from repotune import FineTuningConfig, tune, resume", {"torch", "click", "rich"}),
        ("from repotune.cli import main; main(['--help'])", {"torch", "numpy", "pydantic", "rich"}),
        ("from repotune.cli import main; main(['tune', '--help'])", {"torch", "pyarrow"}),
        ("from repotune.cli import main; main(['tune', '--max-steps', '0', 'x'])", {"torch"}),
        ("from repotune.cli import main; main(['runs'])", {"torch", "pyarrow"}),
        ("import repotune.corpus, repotune.tokens, repotune.planning", {"torch"}),
    ],
)
def test_what_should_be_quick_imports_nothing_heavy(
    code: str, too_heavy: set[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules, file=sys.stderr)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert not too_heavy & set(done.stderr.split())
