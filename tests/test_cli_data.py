"""``dom2data`` as a user meets it: exit codes, streams, JSON."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import meeting
import pytest
import torch
from commands import dom2data
from filelock import FileLock
from small_datasets import stored

from dom2_cli import describe
from dom2_policies.policy import Actor
from dom2data import behaviour, envs, executors
from dom2data import generate as make
from dom2data.collect import collect_block

KEYS = {
    *(
        "id",
        "path",
        "env",
        "quality",
        "steps",
        "episodes",
        "agents",
        "returns",
        "normalized",
        "normalized_own",
    ),
    *("references", "hash", "recipe", "parents", "published", "size_bytes", "created", "spec", "wall_s"),
}


def fails(code: int, *words: str) -> str:
    """The one line that a failing command prints."""
    result = dom2data(*words)
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in result.stderr
    return line


def test_from_generate_to_show(root: Path) -> None:
    made = dom2data("generate", "--env", "tag", "--quality", "medium", "--steps", "5000")
    assert made.exit_code == 0, made.stderr
    for word in (
        "dom2/tag-medium-v0",
        str(root),
        "200 (5,000 steps",
        "±",
        "published 116.36",
        "hash",
        "wall time",
    ):
        assert word in made.stdout
    for word in ("policies  medium (", "about", "free", "next: dom2 fit --dataset dom2/tag-medium-v0"):
        assert word in made.stderr

    cut = dom2data("subsample", "--fraction", "0.05")
    assert cut.exit_code == 0, cut.stderr
    assert "from dom2/tag-medium-v0 (200 episodes), the dataset written last" in cut.stderr
    assert "dom2/tag-medium-5pct-v0" in cut.stdout

    listed = dom2data("list")
    assert [line.split()[0] for line in listed.stdout.splitlines() if "dom2/" in line] == [
        "dom2/tag-medium-5pct-v0",
        "dom2/tag-medium-v0",
    ]
    shown = dom2data("show", "tag-medium-5pct", "--plot", str(root / "returns.png"))
    assert shown.exit_code == 0, shown.stderr
    assert "dom2/tag-medium-v0" in next(
        line for line in shown.stdout.splitlines() if line.startswith("parent")
    )
    assert all(f"predator_{i}" in shown.stdout for i in range(3))
    assert (root / "returns.png").read_bytes().startswith(b"\x89PNG")
    again = ("show", "tag-medium", "--plot", str(root / "returns.png"))
    assert "--force replaces it" in fails(2, *again)
    assert dom2data(*again, "--force").exit_code == 0
    checked = dom2data("verify", "tag-medium-5pct")
    assert (checked.exit_code, "returns" in checked.stdout) == (0, True)


def test_json(root: Path) -> None:
    stored(root, [4, 4, 3])
    listed = json.loads(dom2data("list", "--json").stdout)
    shown = json.loads(dom2data("show", "small", "--json").stdout)
    assert listed == [shown]
    assert set(shown) >= KEYS
    assert (shown["id"], shown["env"], shown["quality"], shown["steps"]) == (
        "dom2/small-v0",
        "tag",
        "medium",
        11,
    )
    assert (shown["episodes"], shown["agents"], shown["path"]) == (3, 3, str(root / "dom2/small-v0"))
    assert set(shown["returns"]["team"]) == {"mean", "std", "quantiles"}
    assert list(shown["returns"]["agents"]) == ["a", "b", "c"]
    score = 100 * (shown["returns"]["team"]["mean"] + 4.1) / 189.7
    assert shown["normalized"] == pytest.approx(score)
    assert shown["parents"][0]["id"] == "memory/small-v0"
    made = dom2data("subsample", "--fraction", "1", "--dataset", "small", "--json")
    assert set(json.loads(made.stdout)) == set(shown)


def test_an_empty_root(root: Path) -> None:
    listed = dom2data("list")
    assert (listed.exit_code, listed.stdout) == (0, "")
    assert "no datasets" in listed.stderr
    assert json.loads(dom2data("list", "--json").stdout) == []
    assert "`dom2data generate` makes one" in fails(2, "subsample", "--fraction", "0.5")


GENERATE = ("generate", "--env", "tag", "--quality")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("generate", "--env", "tga", "--quality", "medium"), "found 'tga'; did you mean tag?"),
        ((*GENERATE, "mediun"), "found 'mediun'; did you mean medium?"),
        ((*GENERATE, "medium-replay", "--steps", "5"), "expected no --steps"),
        ((*GENERATE, "medium", "--steps", "0"), "1 or more, found 0"),
        ((*GENERATE, "medium", "--seed", "-1"), "0 or more, found -1"),
        ((*GENERATE, "medium", "--out", "../x"), "expected an id"),
        ((*GENERATE, "all", "--out", "x"), "expected no --out"),
        ((*GENERATE, "medium", "--store", "hdf5"), "'hdf5' is not"),
        ((*GENERATE, "medium", "--step", "5"), "--steps"),
        (("generate", "--env", "tag"), "--quality"),
        (
            ("subsample", "--fraction", "1.5", "--dataset", "small"),
            "expected a fraction in (0, 1], found 1.5",
        ),
        (("subsample", "--fraction", "0.5", "--dataset", "smal"), "did you mean dom2/small-v0?"),
        (("show", "smal"), "did you mean dom2/small-v0?"),
        (("show", "small", "--plot", "x.gif"), "expected a file ending in"),
        (("verify", "x/y/z"), "expected a dataset under"),
        (("shwo",), "did you mean show?"),
    ],
)
def test_bad_input_is_one_line_and_code_2(root: Path, words: tuple[str, ...], says: str) -> None:
    stored(root, [4, 4, 3])
    before = sorted(root.rglob("*"))
    assert says in fails(2, *words)
    assert sorted(root.rglob("*")) == before


def test_a_damaged_dataset_is_code_3_and_skipped_in_the_list(root: Path) -> None:
    stored(root, [4, 4, 3])
    stored(root, [4], name="whole")
    data = root / "dom2/small-v0/data"
    chunk = data / "actions/c/0/0/0"
    content = bytearray(chunk.read_bytes())
    content[20] ^= 64
    chunk.write_bytes(content)
    assert "array 'actions', chunk 0" in fails(3, "verify", "small")
    (data / "COMPLETE").unlink()
    assert "expected the marker COMPLETE" in fails(3, "show", "small")
    listed = dom2data("list", "--json")
    assert [entry["id"] for entry in json.loads(listed.stdout)] == ["dom2/whole-v0"]
    assert "skipped: " in listed.stderr


def test_an_existing_dataset_needs_force(root: Path) -> None:
    words = (*GENERATE, "random", "--steps", "250")
    first = json.loads(dom2data(*words, "--json").stdout)
    assert "--force replaces it" in fails(2, *words)
    again = json.loads(dom2data(*words, "--json", "--force").stdout)
    assert first["hash"] == again["hash"]
    assert first["created"] < again["created"]


def test_all_makes_what_is_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        make.recipes, "QUALITIES", {k: make.recipes.QUALITIES[k] for k in ("random", "medium")}
    )
    words = (*GENERATE, "all", "--steps", "250")
    dom2data(*GENERATE, "random", "--steps", "250")
    made = dom2data(*words)
    assert made.exit_code == 0, made.stderr
    assert "dom2/tag-random-v0 is already complete: kept" in made.stderr
    assert "dom2/tag-medium-v0 made in" in made.stderr
    table = [line.split()[:2] for line in made.stdout.splitlines() if "dom2/" in line]
    assert table == [["dom2/tag-random-v0", "250"], ["dom2/tag-medium-v0", "250"]]
    (root / "dom2/tag-random-v0/data/rewards/c/0/0").unlink()
    again = json.loads(dom2data(*words, "--json").stdout)
    assert [record["id"] for record in again] == ["dom2/tag-random-v0", "dom2/tag-medium-v0"]
    assert dom2data("verify", "tag-random").exit_code == 0
    assert "found dom2/tag-random-v0, dom2/tag-medium-v0" in fails(2, *GENERATE, "all", "--steps", "500")
    remade = json.loads(dom2data(*GENERATE, "all", "--steps", "500", "--force", "--json").stdout)
    assert [(record["id"], record["steps"]) for record in remade] == [
        ("dom2/tag-random-v0", 500),
        ("dom2/tag-medium-v0", 500),
    ]


def test_every_pair_of_environment_and_quality(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envs, "NAMES", ("spread-4", "spread"))
    all_of = ("generate", "--env", "all", "--quality", "random,medium")
    assert "expected an environment with checkpoints" in fails(2, *all_of)
    words = ("generate", "--env", "all", "--quality", "random", "--steps", "250")
    planned = dom2data(*words, "--dry-run")
    assert [line.split()[:3] for line in planned.stdout.splitlines() if "dom2/" in line] == [
        ["dom2/spread-4-random-v0", "make", "250"],
        ["dom2/spread-random-v0", "make", "250"],
    ]
    assert list(root.iterdir()) == []
    made = json.loads(dom2data(*words, "--json").stdout)
    assert [record["env"] for record in made] == ["spread-4", "spread"]


def test_one_that_fails_does_not_stop_the_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(job: Any) -> Any:
        if job.env == "tag":
            raise OSError(errno.ENOSPC, "No space left on device")
        return collect_block(job)

    monkeypatch.setattr(make, "collect_block", full)
    words = ("generate", "--env", "tag,spread", "--quality", "random", "--steps", "250", "--workers", "1")
    assert "found 1, without dom2/tag-random-v0" in fails(1, *words)
    assert [entry["id"] for entry in json.loads(dom2data("list", "--json").stdout)] == [
        "dom2/spread-random-v0"
    ]


def test_the_markdown_table_is_in_the_order_of_tasks(root: Path) -> None:
    dom2data("generate", "--env", "spread,tag", "--quality", "random", "--steps", "250")
    stored(root, [4, 4, 3])
    head, rule, *rows = dom2data("list", "--markdown").stdout.splitlines()
    assert head == "| id | episodes | return | published | wall time | size | hash |"
    assert head.count("|") == rule.count("|") == rows[0].count("|")
    names = [row.split("`")[1] for row in rows]
    assert names == ["dom2/tag-random-v0", "dom2/spread-random-v0", "dom2/small-v0"]
    assert "| -4.1 ± 10.8 |" in rows[0]


def test_a_dry_run_prints_the_plan_and_writes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = dom2data(*GENERATE, "medium-expert", "--dry-run", "--workers", "2")
    assert planned.exit_code == 0, planned.stderr
    for word in (
        "dom2/tag-medium-expert-v0",
        "medium (",
        "expert (",
        "1,000,000 in 40,000 episodes",
        "MB",
        "2 workers",
    ):
        assert word in planned.stdout
    assert list(root.iterdir()) == []
    assert "replay buffer" in dom2data(*GENERATE, "medium-replay", "--dry-run").stdout
    monkeypatch.setattr(executors, "cores", lambda: 4)
    many = (*GENERATE, "medium", "--steps", "50000000", "--dry-run")
    assert "with 4 workers\n" in dom2data(*many).stdout
    assert "with 1 worker\n" in dom2data(*many, "--executor", "local").stdout


def test_a_second_writer_is_turned_away(root: Path) -> None:
    (root / ".dom2data/locks").mkdir(parents=True)
    with FileLock(root / ".dom2data/locks/dom2--tag-random-v0.lock"):
        assert "found another process" in fails(1, *GENERATE, "random", "--steps", "250")


def test_an_interrupt_is_130(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(make, "publish", interrupted)
    assert "the same command continues" in fails(130, *GENERATE, "random", "--steps", "250")


def test_a_traceback_needs_debug(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(make, "collect_block", broken)
    words = (*GENERATE, "random", "--steps", "250", "--workers", "1")
    assert "RuntimeError: boom" in fails(1, *words)
    assert isinstance(dom2data(*words, "--debug").exception, RuntimeError)


def test_train_reports_and_refuses_to_overwrite(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(name: str, seed: int, out: Path, progress: Any, new_prey: bool) -> dict[str, Any]:
        out.mkdir(exist_ok=True)
        progress("training to expert", 1, 2)
        return {"policies": {"medium": {"return": 117.25}, "prey": {}}}

    monkeypatch.setattr(behaviour, "train", train)
    folder = str(root / "zoo-tag")
    made = dom2data("train", "--env", "tag", "--out", folder)
    assert made.exit_code == 0, made.stderr
    assert "117.25" in made.stdout
    assert "--force replaces it" in fails(2, "train", "--env", "tag", "--out", folder)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings, which take no time and are of untrained networks."""
    names: list[str] = []

    def train(name: str, seed: int, out: Path, progress: Any, new_prey: bool) -> dict[str, Any]:
        names.append(name)
        spec = envs.spec(name)
        actor = Actor((spec.obs_dim, spec.act_dim), spec.n_agents, [torch.Generator()])
        facts = {"return": 1.0, "env_steps": 100}
        policies = {p: behaviour.store(actor, out, p, facts) for p in ("medium", "expert")}
        entry = {"policies": policies, "references": {"random": 0.0, "expert": 1.0}, "noise": 0.1}
        (out / "zoo.json").write_text(json.dumps({name: entry}))
        return entry

    monkeypatch.setattr(behaviour, "train", train)
    return names


def test_retrain_where_nothing_is_shipped(root: Path, trained: list[str]) -> None:
    for env in ("spread-4", meeting.written(root)):
        words = ("generate", "--env", env, "--steps", "100", "--workers", "1", "--retrain", "--quality")
        made = dom2data(*words, "random,medium", "--json")
        assert made.exit_code == 0, made.stderr
        assert [record["quality"] for record in json.loads(made.stdout)] == ["random", "medium"]
        assert dom2data(*words, "random,medium").exit_code == 0  # both are kept
        assert dom2data(*words, "expert", "--dry-run").exit_code == 0
        assert dom2data(*words, "expert").exit_code == 0
        assert trained.pop() == env
        assert trained == []


def test_retrain_looks_before_it_trains(root: Path, trained: list[str]) -> None:
    words = (*GENERATE, "random,medium", "--steps", "250")
    assert dom2data(*words).exit_code == 0
    taken = f"expected a new id, found dom2/tag-medium-v0 in {root}; --force replaces it"
    assert taken in fails(2, *words, "--retrain")
    assert taken in fails(2, *GENERATE, "medium", "--retrain")
    for wrong in (("medium,mediun",), ("medium", "--steps", "0"), ("medium", "--seed", "-1")):
        fails(2, *GENERATE, *wrong, "--retrain", "--force")
    assert trained == []
    assert "dom2/tag-random-v0 made in" in dom2data(*words, "--retrain", "--force").stderr
    assert trained == ["tag"]


def test_train_knows_its_environments(root: Path) -> None:
    assert "found 'tagg'" in fails(2, "train", "--env", "tagg", "--out", str(root / "zoo"))
    assert list(root.iterdir()) == []


def imported(*words: str) -> set[str]:
    """The modules that a command has imported in the end."""
    code = (
        "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
        "from dom2_cli.data import main; main(sys.argv[1:])"
    )
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return set(run.stderr.split())


@pytest.mark.parametrize("words", [("--help",), ("list",), ("show", "small"), ("verify", "--help")])
def test_reading_commands_start_light(root: Path, words: tuple[str, ...]) -> None:
    """A second's worth of imports that none of them needs (times themselves would depend on the machine)."""
    stored(root, [4])
    assert not {"torch", "numba", "zarr", "minari", "scipy", "matplotlib"} & imported(*words)


def test_generating_does_without_torch(root: Path) -> None:
    """Its import takes as long as many steps. Two workers are two threads, of two blocks."""
    words = ("generate", "--env", "tag", "--quality", "medium", "--steps", "80000", "--workers", "2")
    assert not {"torch", "minari", "matplotlib"} & imported(*words)


def test_numbers_are_for_people() -> None:
    assert describe.ui.size(237_000_000) == "237 MB"
    assert describe.ui.size(2_400) == "2 kB"
    assert describe.ui.duration(6.44) == "6.4 s"
    assert describe.ui.duration(200) == "3 min 20 s"
    assert [describe.ui.duration(each) for each in (59.94, 59.96, 119.7, 111_900)] == [
        "59.9 s", "1 min 0 s", "2 min 0 s", "31 h 5 min"
    ]  # fmt: skip
    assert [describe.ui.rate(each) for each in (1234.4, 0.345, 9.96)] == ["1,234/s", "0.34/s", "10/s"]
    assert (describe.ui.number(None), describe.ui.number(1234.56)) == ("–", "1,234.6")
