"""kill -9 at random moments, and what is left: ``python tests/kill_nine.py --kills 50`` prints a table.

Every kill begins with the same few datasets in a new root, and a command that makes another one. After the
kill each listed dataset is verified; then the command is given again, and the hash that it ends with is
compared with an undisturbed run's. Exit code 3 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dom2data import catalog
from dom2data.dataset import open as open_dataset
from dom2data.errors import UserError
from dom2data.verify import verify

DOM2DATA = [sys.executable, "-c", "from dom2_cli.data import main; main()"]
GENERATE = "generate --env tag --quality random --steps 250000 --out made"
COMMANDS = {
    "generate, 1 worker": f"{GENERATE} --workers 1",
    "generate, 2 workers": f"{GENERATE} --workers 2",
    "generate on Ray, 2 workers": f"{GENERATE} --workers 2 --executor ray",
    "merge": "merge made --from {inputs}/shards",
    "subsample": "subsample --dataset one --fraction 0.9 --out made",
    "mix": "mix one:0.5 two:0.5 --out made",
    "import": "import {inputs}/one.npz --from npz --out made",
    "convert": "convert one --to npz --out {root}/made.npz",
    "import of a zip": "import {inputs}/made.zip",
}


@dataclass(frozen=True)
class Undisturbed:
    """What a command does when nobody disturbs it."""

    result: str
    seconds: float
    begins: float
    """seconds until it takes its lock or begins a file"""


def words(command: str, root: Path) -> list[str]:
    filled = command.format(root=root, inputs=root.parent / "inputs").split()
    return [*DOM2DATA, *filled, "--root", str(root)]


def result(command: str, root: Path) -> str | None:
    """What the command made, as a hash; None if nothing is there."""
    if command.startswith("convert"):
        file = root / "made.npz"
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None
    try:
        return open_dataset("made", root).hash
    except UserError:
        return None


def begun(root: Path) -> bool:
    return any((root / ".dom2data" / "locks").glob("dom2--made*")) or any(root.glob(".made*"))


def undisturbed(command: str, root: Path) -> Undisturbed:
    start, begins = time.monotonic(), 0.0
    process = subprocess.Popen(words(command, root), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None:
        begins = begins or (time.monotonic() - start if begun(root) else 0.0)
        time.sleep(0.005)
    seconds, made = time.monotonic() - start, result(command, root)
    if process.returncode or made is None:
        raise SystemExit(f"{command}: {process.stderr.read().decode() if process.stderr else ''}")
    return Undisturbed(made, seconds, begins)


def kill_once(command: str, root: Path, expected: Undisturbed, chance: random.Random) -> tuple[str, str]:
    """(what was there after the kill, what a second run made of it)."""
    process = subprocess.Popen(words(command, root), start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    wait = chance.uniform(0, expected.seconds)
    if chance.random() < 0.75:  # most of the time goes into imports, where nothing can go wrong
        while process.poll() is None and not begun(root):
            time.sleep(0.002)
        wait = chance.uniform(0, expected.seconds - expected.begins)
    time.sleep(wait)
    finished = process.poll() is not None
    if not finished:  # all of it, or the parent alone, as the kernel does when memory is short
        (os.killpg if chance.random() < 0.5 else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    return after(command, root, finished), again(command, root, expected)


def after(command: str, root: Path, finished: bool) -> str:
    """Verifies all that is listed; says how far it had come. Raises UserError for one that is not whole."""
    listed, refused = catalog.catalog(root)
    if refused:
        raise refused[0]
    for entry in listed:
        verify(open_dataset(entry["id"], root))
    if finished or result(command, root) is not None:
        return "complete already"
    if not begun(root):
        return "not begun"
    blocks = len(list((root / ".dom2data" / "stage" / "dom2" / "made-v0" / "blocks").glob("*.json")))
    return "begun, some blocks finished" if blocks else "begun, no block finished"


def again(command: str, root: Path, expected: Undisturbed) -> str:
    """Gives the command a second time, with ``--force`` if its result is there already."""
    if result(command, root) is None:
        run = subprocess.run(words(command, root), capture_output=True, text=True, check=False)
        if run.returncode:
            return f"exit code {run.returncode}: {run.stderr.splitlines()[-1]}"
    for entry in catalog.catalog(root)[0]:
        verify(open_dataset(entry["id"], root))
    left = [p.name for p in (root / ".dom2data" / "stage").rglob("*") if p.name == "recipe.json"]
    if left or list(root.glob(".*.partial")):
        return "something was left over"
    return "the same hash" if result(command, root) == expected.result else "ANOTHER RESULT"


def prepare(folder: Path) -> Path:
    """A root with two datasets, and files to import beside it."""
    root, inputs = folder / "template", folder / "inputs"
    inputs.mkdir(parents=True)
    made = "generate --env tag --quality random --steps 100000 --out"
    for where, command in (
        (root, f"{made} one --seed 1"),
        (root, f"{made} two --seed 2"),
        (root, f"convert one --to npz --out {inputs}/one.npz"),
        (inputs, f"{made} made --seed 3"),
        (inputs, f"export made {inputs}/made.zip"),
        (inputs / "shards", f"{GENERATE} --shard 1/2"),
        (inputs / "shards", f"{GENERATE} --shard 2/2"),
    ):
        subprocess.run(words(command, where), check=True, capture_output=True)
    return root


def run(kills: int, seed: int, commands: dict[str, str], folder: Path) -> Iterator[tuple[str, str, str]]:
    """(command, what was there after the kill, what a second run made) of each kill, commands in turn."""
    chance, template = random.Random(seed), prepare(folder)
    fresh = folder / "root"

    def renew() -> Path:
        shutil.rmtree(fresh, ignore_errors=True)
        return Path(shutil.copytree(template, fresh))

    known = {name: undisturbed(command, renew()) for name, command in commands.items()}
    for number in range(kills):
        name = list(commands)[number % len(commands)]
        try:
            yield name, *kill_once(commands[name], renew(), known[name], chance)
        except UserError as error:
            yield name, "A DATASET THAT IS NOT WHOLE", error.message


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="commands whose names begin so")
    options = parser.parse_args()
    commands = {name: command for name, command in COMMANDS.items() if name.startswith(options.only)}
    counts: Counter[tuple[str, str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for outcome in run(options.kills, options.seed, commands, Path(folder)):
            print(json.dumps(outcome), file=sys.stderr, flush=True)
            counts[outcome] += 1
    print("| command | after the kill | after the second run | times |\n|---|---|---|---:|")
    for outcome, times in sorted(counts.items()):
        print(f"| {' | '.join(outcome)} | {times} |")
    sys.exit(0 if all(outcome[2] == "the same hash" for outcome in counts) else 3)


if __name__ == "__main__":
    main()
