import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from children import heeds_interrupts
from filelock import FileLock
from tiny import CPU, NETWORKS, new_run, tag_random

from dom2 import checkpoint, fit, metrics, presets, run, track
from dom2.algorithms.dom2 import Config
from dom2_policies import saving
from dom2data import dataset
from dom2data.errors import UserError

torch.set_num_threads(1)


def same_weights(one: run.Run, other: run.Run) -> bool:
    a, b = (checkpoint.load_weights(r.folder, CPU)[1] for r in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


LEARN = """
import copy, sys, torch
from dom2.members import Members
from dom2_policies.stacked import StackedLinear
from dom2data import envs
g = torch.Generator().manual_seed(0)
members = Members(envs.spec("spread"), 1, torch.device("cpu"), [g])
layer = members.learned("layer", StackedLinear(3, 4, 2, [g]), 0.1)
usual, rows = copy.deepcopy(layer), [torch.rand(3, 5, 4, generator=g) for _ in range(3)]
for x in rows:
    members.descend("layer", layer(x).square().sum(), 1e9)
    members.load_state_dict(members.state_dict())
assert "torch._dynamo" not in sys.modules
adam = torch.optim.Adam(usual.parameters(), 0.1, foreach=True)
for x in rows:
    adam.zero_grad()
    usual(x).square().sum().backward()
    adam.step()
assert all(torch.equal(one, other) for one, other in zip(layer.parameters(), usual.parameters()))
"""


def test_learning_is_pytorchs_adam_without_its_compiler() -> None:
    """Which takes as long to load as many updates take; the steps are the same."""
    subprocess.run([sys.executable, "-c", LEARN], check=True)


def test_a_run_describes_itself(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run", seeds=2)
    assert begun.status == "new"
    assert fit.fit(begun) == "complete"
    found = run.read(tmp_path / "run")
    assert found.status == "complete"
    assert found.settings == begun.settings
    assert found.document["dataset"]["id"] == tag_random()
    assert found.document["dataset"]["hash"] == dataset.open(tag_random()).hash
    assert {"python", "torch", "dom2"} <= found.document["versions"].keys()
    lines = track.read(tmp_path / "run")
    assert [line["update"] for line in lines] == [2, 4]
    assert len(lines[0]["train/actor/bc"]) == 2
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert checkpoint.updates(tmp_path / "run") == 4


def test_three_seeds_equal_three_runs(tmp_path: Path) -> None:
    """Also through the sampler: a seed draws the same minibatches however many are stacked."""
    together = new_run(tmp_path / "three", seeds=3)
    fit.fit(together)
    whole = checkpoint.load_weights(together.folder, CPU)[1]
    for seed in range(3):
        alone = new_run(tmp_path / str(seed), seed=seed)
        fit.fit(alone)
        for name, value in checkpoint.load_weights(alone.folder, CPU)[1].items():
            assert torch.equal(whole[name].chunk(3)[seed], value), name


def test_resume_continues_bit_for_bit(tmp_path: Path) -> None:
    whole, halves = new_run(tmp_path / "whole"), new_run(tmp_path / "halves", updates=2)
    fit.fit(whole)
    fit.fit(halves)
    halves = run.read(tmp_path / "halves")
    halves.amend(updates=4)
    assert fit.fit(run.read(tmp_path / "halves")) == "complete"
    assert same_weights(whole, halves)
    metrics = [[r["train/actor/bc"] for r in track.read(tmp_path / name)] for name in ("whole", "halves")]
    assert metrics[0] == metrics[1]


def test_evaluation_does_not_perturb_training(tmp_path: Path) -> None:
    plain, watched = new_run(tmp_path / "a"), new_run(tmp_path / "b", eval_every=2, eval_episodes=3)
    fit.fit(plain)
    fit.fit(watched)
    assert same_weights(plain, watched)
    assert len(track.read(tmp_path / "b")[0]["eval/return"]) == 1


def test_no_augmentation_equals_no_thresholds(tmp_path: Path) -> None:
    """Thresholds that no trajectory reaches change no draw."""
    none = new_run(tmp_path / "none", augment="none")
    unreached = new_run(tmp_path / "unreached", augment="absolute", thresholds=(1e9,))
    default = new_run(tmp_path / "default")
    for each in (none, unreached, default):
        fit.fit(each)
    assert same_weights(none, unreached)
    assert not same_weights(none, default)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_and_resume_finishes(tmp_path: Path, number: int) -> None:
    whole, stopped = new_run(tmp_path / "whole"), new_run(tmp_path / "stopped")
    fit.fit(whole)

    def interrupt(update: int, metrics: object) -> None:
        if update == 1:
            os.kill(os.getpid(), number)

    assert fit.fit(stopped, interrupt) == "interrupted"
    assert (stopped.status, checkpoint.updates(stopped.folder)) == ("interrupted", 2)
    assert fit.fit(run.read(stopped.folder)) == "complete"
    assert same_weights(whole, stopped)


def test_an_interrupt_before_the_first_update_counts(tmp_path: Path) -> None:
    stopped = new_run(tmp_path / "run")
    with fit.Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert fit.fit(stopped, interrupts=interrupts) == "interrupted"
    assert checkpoint.updates(stopped.folder) == 1


def test_evaluations_come_when_asked_for_whatever_is_logged(tmp_path: Path) -> None:
    begun = new_run(
        tmp_path / "run", updates=7, log_every=5, eval_every=3, eval_episodes=2, checkpoint_every=100
    )
    fit.fit(begun)
    lines = track.read(begun.folder)
    assert [line["update"] for line in lines if "eval/return" in line] == [3, 6, 7]
    assert [line["update"] for line in lines] == [3, 5, 6, 7]


def test_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from dom2 import fit, run\n"
        "def twice(update, metrics):\n"
        "    os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)\n"
        "fit.fit(run.read(Path(sys.argv[1])), twice)\n"
    )
    begun = new_run(tmp_path / "run", updates=100)
    result = subprocess.run(
        [sys.executable, "-c", script, str(begun.folder)],
        preexec_fn=heeds_interrupts,
        capture_output=True,
        timeout=120,
    )
    assert result.returncode == -signal.SIGINT
    assert checkpoint.latest(begun.folder) is None


def test_killed_at_any_moment_then_resumed(tmp_path: Path) -> None:
    """kill -9 while it trains and saves without pause; what is left continues to the same end."""
    settings = {"updates": 30, "checkpoint_every": 1, "log_every": 1}
    whole, killed = new_run(tmp_path / "whole", **settings), new_run(tmp_path / "killed", **settings)
    fit.fit(whole)
    script = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from dom2 import fit, run\n"
        "torch.set_num_threads(1)\n"
        "fit.fit(run.read(Path(sys.argv[1])))\n"
    )
    for target in (5, 12):
        process = subprocess.Popen([sys.executable, "-c", script, str(killed.folder)])
        deadline = time.monotonic() + 120
        while checkpoint.updates(killed.folder) < target and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert target <= checkpoint.updates(killed.folder) < 30
        assert killed.status == "running"
    assert fit.fit(run.read(killed.folder)) == "complete"
    assert same_weights(whole, killed)
    assert [line["update"] for line in track.read(killed.folder)] == list(range(1, 31))


def test_an_unfinished_checkpoint_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"w": torch.arange(3.0)}
    checkpoint.save(tmp_path, 1, weights, {"a": 1})

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    for name in ("fsync", "replace"):  # before the folder is whole; before it is named
        with monkeypatch.context() as patch:
            patch.setattr(os, name, die)
            with pytest.raises(KeyboardInterrupt):
                checkpoint.save(tmp_path, 2, {"w": torch.zeros(3)}, {"a": 2})
        assert checkpoint.updates(tmp_path) == 1
        assert torch.equal(checkpoint.load_weights(tmp_path, CPU)[1]["w"], weights["w"])
    checkpoint.save(tmp_path, 2, {"w": torch.zeros(3)}, {"a": 2})
    assert checkpoint.load_state(tmp_path) == {"a": 2}
    assert sorted(p.name for p in (tmp_path / "checkpoint").iterdir()) == ["000000002", "latest"]


def test_nan_stops_and_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dom2.algorithms.dom2 import DOM2

    schedule = {"updates": 20, "checkpoint_every": 10, "log_every": 10}
    begun, update = new_run(tmp_path / "run", seeds=2, **schedule), DOM2.update

    def broken(self: DOM2, batch: object) -> dict[str, torch.Tensor]:
        metrics = update(self, batch)
        if self.members.updates == 13:
            with torch.no_grad():
                self.noise.head.bias[4] = torch.nan  # seed 1, second agent
        return metrics

    monkeypatch.setattr(DOM2, "update", broken)
    with pytest.raises(
        UserError, match=r"update 14: .*actor/bc = nan \(seed 1, predator_1\).*update 10 is kept"
    ) as e:
        fit.fit(begun)
    assert e.value.code == 1
    assert begun.status == "failed"
    assert all(v.isfinite().all() for v in checkpoint.load_weights(begun.folder, CPU)[1].values())


def test_metrics_of_agents_and_of_seeds_are_reduced_and_named(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run", seeds=2)
    of_agents, of_seeds = torch.arange(6.0), torch.tensor([7.0, 8.0])
    expected = {"train/actor/q": [1.0, 4.0], "train/critic/td": [7.0, 8.0]}
    assert metrics.reduce({"actor/q": of_agents, "critic/td": of_seeds}, 2) == expected
    watch = metrics.Watch(2)
    watch.see(1, {"actor/q": of_agents, "critic/td": of_seeds})
    watch.see(2, {"behaviour/loss": of_agents})  # of another phase
    watch.check(begun)
    for update in (3, 4):  # what follows is not what began it
        watch.see(update, {"actor/q": of_agents, "critic/td": of_seeds})
        of_seeds[1] = torch.inf
    of_agents[2] = torch.nan
    watch.see(5, {"actor/q": of_agents, "critic/td": of_seeds})
    with pytest.raises(UserError, match=r"update 4: .*critic/td = inf \(seed 1\)"):
        watch.check(begun)
    watch = metrics.Watch(2)
    watch.see(7, {"actor/q": of_agents})
    with pytest.raises(UserError, match=r"update 7: .*actor/q = nan \(seed 0, predator_2\)"):
        watch.check(begun)


@contextlib.contextmanager
def a_limit_on_files(nbytes: int) -> Iterator[None]:
    """What is written beyond it fails as on a full disk, in whatever library."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_state_that_does_not_fit_says_its_name(tmp_path: Path) -> None:
    with a_limit_on_files(1000), pytest.raises(OSError, match=r"File too large: '.*state\.pt'"):
        saving.save_state({"moments": torch.zeros(1000)}, tmp_path / "state.pt")


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, save_weights = new_run(tmp_path / "run"), checkpoint.save_weights

    def full(weights: dict[str, torch.Tensor], path: Path) -> None:
        if checkpoint.updates(begun.folder) == 2:
            with a_limit_on_files(50_000):  # below the weights, above what else is written meanwhile
                save_weights(weights, path)
        save_weights(weights, path)

    monkeypatch.setattr(checkpoint, "save_weights", full)
    with pytest.raises(OSError, match=r"File too large: '.*weights\.safetensors'"):
        fit.fit(begun)
    assert (begun.status, checkpoint.updates(begun.folder)) == ("failed", 2)
    monkeypatch.undo()
    assert fit.fit(run.read(begun.folder)) == "complete"


def test_two_processes_cannot_fit_one_run(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run")
    with FileLock(begun.folder / ".lock"), pytest.raises(UserError, match="another process"):
        fit.fit(begun)
    assert begun.status == "new"
    with FileLock(begun.folder / ".lock"):
        with pytest.raises(UserError, match="another process") as error:
            run.create(begun.folder, begun.document, force=True)
        with pytest.raises(UserError, match="another process"):
            begun.amend(updates=9)
    assert error.value.code == 1
    assert run.read(begun.folder).settings.updates == 4


def test_a_cut_checkpoint_is_one_line(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run")
    fit.fit(begun)
    folder = checkpoint.latest(begun.folder)
    assert folder is not None
    for name, load in (("weights.safetensors", checkpoint.load_weights), ("state.pt", checkpoint.load_state)):
        (folder / name).write_bytes((folder / name).read_bytes()[:100])
        with pytest.raises(UserError, match=f"{name}: expected a whole checkpoint") as error:
            load(begun.folder, *([CPU] if load is checkpoint.load_weights else []))
        assert error.value.code == 3


def test_changed_data_is_refused(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run")
    begun.document["dataset"]["hash"] = "0" * 64
    with pytest.raises(UserError, match="with hash 000") as error:
        fit.fit(begun)
    assert error.value.code == 3


def test_an_existing_run_is_kept_and_foreign_files_always(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run")
    with pytest.raises(UserError, match="--force replaces it, --resume continues it"):
        run.create(tmp_path / "run", begun.document)
    (tmp_path / "run" / "metrics.jsonl").write_text("old")
    run.create(tmp_path / "run", begun.document, force=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    (tmp_path / "run" / "status").write_text("failed")
    (tmp_path / "run" / "config.json").write_text('{"schema":')  # damaged, but a run's
    run.create(tmp_path / "run", begun.document, force=True)
    (tmp_path / "run" / "config.json").unlink()  # killed while it was made
    run.create(tmp_path / "run", begun.document)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").write_text("dear")
    with pytest.raises(UserError, match="found other files"):
        run.create(tmp_path / "letters", begun.document, force=True)
    assert (tmp_path / "letters" / "love.txt").exists()
    (tmp_path / "letters" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="found other files"):
        run.create(tmp_path / "letters", begun.document, force=True)
    assert (tmp_path / "letters" / "love.txt").exists()


def test_a_damaged_config_is_one_line(tmp_path: Path) -> None:
    begun = new_run(tmp_path / "run")
    path = begun.folder / "config.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"schema": 99}))
    with pytest.raises(UserError, match="expected schema 1, found 99"):
        run.read(begun.folder)
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match="expected a run's configuration"):
        run.read(begun.folder)


def test_configure_layers_defaults_preset_task_and_flags(tmp_path: Path) -> None:
    data = dataset.open(tag_random())
    task = presets.defaults("dom2", "tag", "random")
    assert fit.configure("dom2", "compact", data.env, data.quality, {}) == Config(**task)
    wide = fit.configure("dom2", "wide", data.env, data.quality, {"eta": 0.25})
    assert (wide.widths, wide.lr, wide.eta, wide.zeta) == ((512, 256, 128), 3e-4, 0.25, task["zeta"])
    assert presets.defaults("dom2", "tag", None) == {}
    with pytest.raises(UserError, match="did you mean eta"):
        fit.configure("dom2", "compact", data.env, data.quality, {"etta": 1.0})
    with pytest.raises(UserError, match=r"expected a preset in compact, wide, found 'huge'"):
        fit.configure("dom2", "huge", data.env, data.quality, {})
    with pytest.raises(UserError, match="eta: expected number, found 'x'"):
        fit.configure("dom2", "compact", data.env, data.quality, {"eta": "x"})


def test_an_algorithm_from_a_file(tmp_path: Path) -> None:
    """A user's own file runs through the same loop."""
    path = tmp_path / "mine.py"
    path.write_text("from dom2.algorithms.dom2 import DOM2\n\nclass Mine(DOM2):\n    pass\n")
    data = dataset.open(tag_random())
    name = f"{path}:Mine"
    config = fit.configure(name, "compact", data.env, data.quality, NETWORKS)
    document = run.describe(run.Settings(algorithm=name, updates=1, batch_size=8), config, data, [])
    assert fit.fit(run.create(tmp_path / "run", document)) == "complete"


def test_lines_of_metrics_that_are_none_are_left_out(tmp_path: Path) -> None:
    lines = ['{"update": 1}', "1", '{"update": "x"}', "{", '{"update": 2}']
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\xfe")
    assert [line["update"] for line in track.read(tmp_path)] == [1, 2]
