"""The documentation is true: links lead somewhere, commands run, listed options and keys exist."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import meeting
import pages
import pytest
import weighted
from click.testing import CliRunner

from dom2 import config
from dom2.algorithms.dom2 import DOM2
from dom2.run import Settings
from dom2_cli import data, learn

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
COMMANDS = {"dom2data": data.main, "dom2": learn.main}

# What a documented command is run with here, so that the suite stays short. Everything else runs as printed.
SMALLER = {
    "dom2data generate": "--steps 5000 --force",
    "dom2data subsample": "--force",
    **dict.fromkeys(("dom2data convert", "dom2data import"), "--force"),
    **dict.fromkeys(("dom2data report", "dom2data play", "dom2data card"), "--force"),
    **dict.fromkeys(("dom2data export", "dom2data push", "dom2data pull"), "--force"),
    "dom2 fit": "--updates 3 --batch-size 16",
    "dom2 evaluate": "--episodes 4",
    "dom2 diversity": "--repeats 2",
    "dom2 reproduce": "--report-only",
    "dom2 sweep": "--dry-run",
    "dom2 play": "--force",
    "dom2data references": "--episodes 200",
}
# These train for minutes: only their plan or their options are checked.
ONLY = {
    "dom2data generate --env tag --quality medium-replay": "--dry-run",
    "dom2data generate --env tag --quality all": "--dry-run",
    "dom2data generate --env all --quality all": "--help",
    "dom2data generate --env meet:make --quality expert": "--help",
    "dom2data train": "--help",
    "dom2 reproduce table1 --dry-run": "--only tag",
}
# Commands of other programs: set-up, which CI does for real before it runs this test.
OTHERS = {"make", "pip", "source", "git"}


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """GitHub's and MyST's names of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def console(page: Path) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def shortened(command: str) -> list[str]:
    """The arguments that a documented command is run with."""
    # The pages' /tmp is the tests' own folder.
    words = [word.replace("file:///tmp", Path.cwd().as_uri()) for word in shlex.split(command)[1:]]
    for start, more in (ONLY | SMALLER).items():
        if command == start or command.startswith(start + " "):
            return [words[0], "--help"] if more == "--help" else words + shlex.split(more)
    return words


def invoke(command: str) -> str:
    """Standard output of one of our commands, or of Minari's. Fails unless it exits with 0."""
    if command.startswith("minari "):
        words = [Path(sys.executable).with_name("minari"), *shlex.split(command)[1:]]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout
    result = CliRunner().invoke(COMMANDS[command.split()[0]], shortened(command))
    assert result.exit_code == 0, f"$ {command}\n{result.output}"
    return result.stdout


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to run in, and a dataset root with the dataset that the pages speak of."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "root"))
        meeting.written(folder)
        weighted.written(folder)
        sweeps = (ROOT / "docs/sweep.md").read_text()
        for name, text in re.findall(r"^```toml\n# (\S+)\n(.*?)^```", sweeps, flags=re.M | re.S):
            (folder / name).write_text(text)
        invoke("dom2data generate --env tag --quality medium")
        invoke("dom2 fit --dataset tag-medium --out runs/tag-medium-v0-dom2")
        yield folder
    if ray := sys.modules.get("ray"):  # a page's command has started it
        ray.shutdown()


@pytest.fixture(scope="module")
def enough() -> set[str]:
    """What an earlier page had, too, and leaves nothing behind, or again the same: once is enough."""
    return set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if console(page)], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_commands_run(page: Path, enough: set[str]) -> None:
    for command in dict.fromkeys(console(page)):
        if command.split()[0] in OTHERS:
            continue
        words = shlex.join([command.split()[0], *shortened(command)])
        if words not in enough:
            invoke(command)
        if words.endswith(("--dry-run", "--help", "--force")):
            enough.add(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_tables_say_what_the_reports_say(page: Path) -> None:
    fill = runpy.run_path(str(ROOT / "docs" / "tables.py"))["filled"]
    assert page.read_text() == fill(page.read_text()), "run `python docs/tables.py`"


def test_make_targets_exist() -> None:
    targets = {line.split()[1] for page in PAGES for line in console(page) if line.startswith("make ")}
    targets |= {t for page in PAGES for t in re.findall(r"`make ([\w-]+)`", page.read_text())}
    assert {"demo", "test"} <= targets
    run = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def options(group: click.Group) -> dict[str, set[str]]:
    """Long options of each subcommand, without the hyper-parameters that ``fit`` takes from an algorithm."""
    found = {
        name: {flag for p in command.params for flag in p.opts if flag.startswith("--")}
        for name, command in group.commands.items()
    }
    if "fit" in found:
        hyper = {field.name for field in config.fields(DOM2.config_type)}
        settings = {field.name for field in config.fields(Settings)}
        found["fit"] = {flag for flag in found["fit"] if flag[2:].replace("-", "_") not in hyper}
        found["fit"] |= {"--" + name.replace("_", "-") for name in settings}
    return found


@pytest.mark.parametrize("program", COMMANDS)
def test_command_page_lists_exactly_the_options(program: str) -> None:
    """A table for each command in cli.md, one option a row."""
    sections = re.split(r"^### ", (ROOT / "docs/cli.md").read_text(), flags=re.M)[1:]
    documented = {
        match[1]: set(re.findall(r"^\| `(--[\w-]+)", section, flags=re.M))
        for section in sections
        if (match := re.match(rf"`{program} ([\w-]+)", section))
    }
    assert documented == options(COMMANDS[program])


@pytest.mark.parametrize(
    ("command", "of"),
    [("dom2data show ID --json", "tag-medium"), ("dom2 evaluate RUN --json", "runs/tag-medium-v0-dom2")],
)
def test_documented_json_keys_are_there(command: str, of: str) -> None:
    section = (ROOT / "docs/cli.md").read_text().split(f"`{command}` prints", 1)[1].split("\n#", 1)[0]
    keys = re.findall(r"^\| `([\w.]+)` \|", section, flags=re.M)
    assert len(keys) > 5
    printed = json.loads(invoke(command.replace("ID", of).replace("RUN", of)))
    for key in keys:
        value = printed
        for part in key.split("."):
            assert part in value, key
            value = value[part]


def test_reader_of_the_format_page(place: Path) -> None:
    """The page's own code opens and verifies a dataset, with Zarr alone."""
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place / "root")
        exec(pages.python("format.md"), names)
    assert getattr(names["first"], "shape", None) == (26, 3, 16)


def test_python_of_the_minari_page() -> None:
    names: dict[str, object] = {}
    exec(pages.python("minari.md"), names)
    assert (names["t"], names["truncated"]) == (24, True)


def test_python_of_the_quickstart() -> None:
    text, names = (ROOT / "docs/quickstart.md").read_text(), dict[str, Any]()
    for code in re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S):
        exec(code, names)
    assert names["episode"].observations.shape == (26, 3, 16)
    assert tuple(names["batch"].obs.shape) == (3, 256, 16)
