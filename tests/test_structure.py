"""The limits that keep the project small: sizes, names, import direction, fast start, nothing unpickled."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"policies": "dom2_policies", "dom2data": "dom2data", "dom2": "dom2", "cli": "dom2_cli"}
TOP_LEVEL = {
    *PACKAGES,
    *("tests", "docs", "pyproject.toml", "constraints.txt", "Makefile", ".ci", ".gitignore"),
    *("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff"),
}
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "managers"}
MUST_SAY = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SLOW_TO_IMPORT = {"torch", "numba", "minari", "zarr", "scipy", "matplotlib"}


def tracked(*patterns: str) -> list[Path]:
    """Files of the project, committed or about to be, relative to its root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("not a git checkout")
    return [path for line in run.stdout.splitlines() if (ROOT / (path := Path(line))).is_file()]


def sources() -> Iterator[tuple[Path, ast.Module]]:
    """Every Python file outside the tests, parsed."""
    for path in tracked("*.py"):
        if path.parts[0] in PACKAGES:
            yield path, ast.parse((ROOT / path).read_text())


def calls(tree: ast.Module, dotted: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == dotted:
            yield node


def test_files_have_at_most_400_lines() -> None:
    lengths = {str(path): len((ROOT / path).read_text().splitlines()) for path in tracked("*.py")}
    assert lengths
    assert {path: n for path, n in lengths.items() if n > 400} == {}


def test_functions_have_at_most_60_lines() -> None:
    long = []
    for path in tracked("*.py"):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    long.append(f"{path}:{node.lineno} {node.name}: {length} lines")
    assert long == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [str(path) for path in tracked("*.py") if path.stem in VAGUE] == []


def test_nothing_new_at_the_top_level() -> None:
    assert {path.parts[0] for path in tracked()} - TOP_LEVEL == set()


def test_every_package_is_listed_for_the_wheel() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent.parts for path, _ in sources()}
    assert listed == {".".join((PACKAGES[parts[0]], *parts[1:])) for parts in folders}


def test_import_graph_sees_every_module() -> None:
    """Two packages have another import name than folder, and a graph that lost them keeps any contract."""
    graph = grimp.build_graph(*PACKAGES.values(), cache_dir=None)
    expected = set()
    for path, _ in sources():
        parts = (PACKAGES[path.parts[0]], *path.with_suffix("").parts[1:])
        expected.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    assert expected == graph.modules


def test_imports_go_one_way() -> None:
    lint = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    run = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("module", ["dom2_cli.data", "dom2_cli.learn"])
def test_help_starts_without_the_slow_libraries(module: str) -> None:
    code = (
        f"import json, sys, {module} as command\n"
        "try: command.main(['--help'])\n"
        "except SystemExit as stop: print(json.dumps([stop.code, list(sys.modules)]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exit_code, modules = json.loads(run.stdout.splitlines()[-1])
    assert exit_code == 0
    assert SLOW_TO_IMPORT & {name.split(".")[0] for name in modules} == set()


def test_nothing_is_unpickled() -> None:
    found = []
    for path, tree in sources():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path}: import {name}" for name in names if name.split(".")[0] in UNPICKLERS]
        for dotted, (keyword, value) in MUST_SAY.items():
            for call in calls(tree, dotted):
                given = {k.arg: k.value for k in call.keywords}.get(keyword)
                if not (isinstance(given, ast.Constant) and given.value is value):
                    found.append(f"{path}:{call.lineno} {dotted} without {keyword}={value}")
    assert found == []
