"""The same map in this process, over threads, processes and Ray, whoever is killed on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import mapped
import meeting
import pytest

from dom2data import executors, generate, on_ray
from dom2data.dataset import Dataset
from dom2data.errors import UserError
from dom2data.executors import Executor, Local, Processes, Threads
from dom2data.on_ray import Ray
from dom2data.store import layout as layouts
from dom2data.store import remote_stage
from dom2data.verify import verify

ray = pytest.importorskip("ray")

STEPS = 20_000
EPISODES = 50
"""of a block in these tests, so that there are 16"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, left behind by the tests before it and started by the first that needs it."""
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(layouts._BLOCK_EPISODES, 25, EPISODES)
        yield


def plan(root: Path) -> generate.Plan:
    return generate.plan("tag", "random-medium", steps=STEPS, root=root)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, small_blocks: None) -> Dataset:
    return generate.generate(plan(tmp_path_factory.mktemp("undisturbed")))


KINDS = [Local(), Threads(2), Processes(2), Ray(2)]
names = pytest.mark.parametrize("executor", KINDS, ids=["local", "threads", "processes", "ray"])


@names
@pytest.mark.usefixtures("cluster")
def test_every_job_is_done_once(executor: Executor) -> None:
    assert sorted(executor.map(mapped.double, range(7))) == [0, 2, 4, 6, 8, 10, 12]
    assert list(executor.map(mapped.double, [])) == []


@names
@pytest.mark.usefixtures("cluster")
def test_an_error_comes_back_as_it_was(executor: Executor) -> None:
    with pytest.raises(UserError, match="found three") as error:
        list(executor.map(mapped.refuses, range(5)))
    assert error.value.code == 3
    with pytest.raises(ZeroDivisionError):
        list(executor.map(mapped.breaks, range(2)))


def test_the_choice_by_name() -> None:
    assert executors.choose() == Local()
    assert executors.choose(workers=3) == executors.choose("processes", 3) == Processes(3)
    assert executors.choose("ray", 2, "host:6379", 0.5) == Ray(2, "host:6379", 0.5)
    assert executors.choose(workers=3, threads=True) == Threads(3)
    assert executors.choose("threads", 3, threads=True) == Threads(3)
    assert executors.choose(threads=True) == Local()
    with pytest.raises(UserError, match=r"expected an executor \(local, processes, ray\), found 'threads'"):
        executors.choose("threads", 3)
    with pytest.raises(UserError, match=r"\(local, threads, processes, ray\), found 'slurm'"):
        executors.choose("slurm", threads=True)
    for of_ray in (("host:6379",), (None, 0.25)):
        with pytest.raises(UserError, match="--executor ray with --"):
            executors.choose("processes", 2, *of_ray)
    with pytest.raises(UserError, match="one worker with --executor local, found 2"):
        executors.choose("local", 2)


def test_threads_begin_no_more_than_is_worked_at() -> None:
    begun: list[int] = []
    with closing(Threads(2).map(begun.append, range(100))) as results:
        next(results)
    assert 1 <= len(begun) <= 4


SLOW = """
import os
import time
from multiprocessing import parent_process
from pathlib import Path

HERE = Path(__file__).parent
if parent_process():
    (HERE / f"importing-{os.getpid()}").touch()
    time.sleep(0.5)

def leave_behind(job):
    (HERE / f"done-{job}").touch()
"""


@pytest.mark.parametrize("importing", [0, 1, 2])
def test_interrupted_workers_begin_nothing(
    importing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whether they were just started, or so many are at the imports of their first job."""
    (tmp_path / "slow_to_import.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    import slow_to_import  # type: ignore[import-not-found]

    def interrupt(*_: Any, **__: Any) -> None:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("importing-*"))) < importing and time.monotonic() < deadline:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(executors, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(Processes(2).map(slow_to_import.leave_behind, range(2)))
    assert not list(tmp_path.glob("done-*"))
    assert capfd.readouterr().err == ""


WAITING = """
import time
from pathlib import Path

from dom2data.executors import interrupted

HERE = Path(__file__).parent

def wait_for_it(job):
    if job:
        (HERE / "begun").touch()
        deadline = time.monotonic() + 30
        while not interrupted() and time.monotonic() < deadline:
            time.sleep(0.01)
        (HERE / f"interrupted-{bool(interrupted())}").touch()
"""


def test_workers_are_interrupted_where_nobody_waits_for_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Ctrl-C meets whoever reads the results, between two of them."""
    (tmp_path / "waiting_workers.py").write_text(WAITING)
    monkeypatch.syspath_prepend(tmp_path)
    import waiting_workers  # type: ignore[import-not-found]

    with closing(Processes(2).map(waiting_workers.wait_for_it, range(2))) as results:
        next(results)
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
    assert (tmp_path / "interrupted-True").exists()


def test_a_job_heeds_an_interrupt_that_came_a_moment_before(monkeypatch: pytest.MonkeyPatch) -> None:
    from dom2 import fit

    monkeypatch.setattr(executors, "_interrupts", [signal.SIGINT])
    with fit.Interrupts() as interrupts:
        assert interrupts.requested


def test_torch_has_one_thread_meanwhile() -> None:
    """Whether it is imported by what is done, or was before."""
    script = """
import os
from dom2data.executors import cores, one_thread
with one_thread():
    import torch
    print(torch.get_num_threads())
print(torch.get_num_threads() == cores())
print(os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS"))
torch.set_num_threads(3)
with one_thread():
    print(torch.get_num_threads())
print(torch.get_num_threads())
print(os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS"))
"""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"MKL_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert run.stdout.split() == ["1", "True", "None", "2", "1", "3", "None", "2"], run.stderr[-2_000:]


@pytest.mark.parametrize("executor", KINDS[1:], ids=["threads", "processes", "ray"])
@pytest.mark.usefixtures("cluster")
def test_a_dataset_has_the_same_hash_whoever_makes_it(
    executor: Executor, undisturbed: Dataset, tmp_path: Path
) -> None:
    made = generate.generate(plan(tmp_path / "again"), executor=executor)
    assert made.hash == undisturbed.hash
    assert len(made.manifest["arrays"]["actions"]["leaves"]) == 16


@pytest.mark.usefixtures("cluster")
def test_ragged_parts_are_merged_in_order(tmp_path: Path) -> None:
    """Of episodes that end early; how many blocks it takes turns out on the way."""
    meet = meeting.written(tmp_path)
    one, two = (
        generate.generate(
            generate.plan(meet, "random", steps=12_000, root=tmp_path / name), executor=executor
        )
        for name, executor in (("one", Local()), ("two", Ray(2)))
    )
    assert two.hash == one.hash


@pytest.mark.usefixtures("cluster")
def test_blocks_go_straight_to_a_url(undisturbed: Dataset, tmp_path: Path) -> None:
    """As workers without a common folder do it, with a chunk lost and another recipe on the way."""
    url = f"file://{tmp_path}/store"
    todo = generate.plan("tag", "random-medium", steps=STEPS, root=url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            generate.generate(todo, executor=Ray(2))
    chunk = tmp_path / "store/dom2/tag-random-medium-v0/data/actions/c/7/0/0"
    publish = generate.publish
    lost = pytest.raises(UserError, match=r"expected actions/c/7/0/0, found none .* makes it again")
    with pytest.MonkeyPatch.context() as patch, lost:
        patch.setattr(generate, "publish", lambda *given: chunk.unlink() or publish(*given))
        generate.generate(todo, executor=Local())
    other = generate.plan("tag", "random-medium", steps=STEPS, seed=1, out=todo.dataset_id, root=url)
    with pytest.raises(UserError, match="as it was begun, found another recipe"):
        generate.generate(other)
    made = generate.generate(todo, executor=Ray(2))
    assert made.hash == undisturbed.hash
    assert verify(made)
    assert remote_stage.RemoteStage(todo.dataset_id, url).recipe() is None
    with pytest.raises(UserError, match="expected a new id"):
        generate.generate(todo)


@pytest.mark.usefixtures("cluster")
def test_a_node_that_would_compute_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"a node with 2 GPUs, found at most 0"):
        list(Ray(2, gpus=2).map(mapped.double, [1]))
    monkeypatch.setattr(on_ray, "code_hash", lambda: "mine")  # here alone: the workers import the module anew
    with pytest.raises(UserError, match=r"expected code = mine as here, found .*; install the same") as error:
        list(Ray(2).map(mapped.double, [1]))
    assert error.value.code == 3
    monkeypatch.undo()
    needed = tmp_path / "recipe.json"
    needed.write_text("{}")
    assert list(Ray(2).map(mapped.double, [1], [str(needed)])) == [2]
    real = on_ray.identity
    monkeypatch.setattr(on_ray, "identity", lambda needs: real(needs) | {str(needed): "another file"})
    with pytest.raises(UserError, match=r"recipe.json = another file as here"):
        on_ray._compare("there", on_ray.identity([]), real([str(needed)]))


@pytest.mark.usefixtures("cluster")
def test_a_sweep_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command, on the cluster that is there; nothing is fitted in this process."""
    import test_sweep
    import tiny

    from dom2 import fit

    tiny.tag_random()
    monkeypatch.setattr(fit, "fit", lambda *_, **__: pytest.fail("fitted here"))  # the workers import it anew
    test_sweep.file(tmp_path, test_sweep.ONE)
    ended = test_sweep.call(tmp_path, "--executor", "ray")
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.splitlines()[-1].split()[:2] == ["tiny-random/bc", "done"]


# From here on workers of Ray are killed: what is above finds them alive.


@pytest.mark.usefixtures("cluster")
def test_a_ray_worker_killed_in_mid_generate(
    undisturbed: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark: Path = tmp_path / "mark"
    killed: list[int] = []
    mark.mkdir()
    monkeypatch.setattr(generate, "partial", partial(_named, mark))

    def kill_some(what: str, steps: int, total: int) -> None:
        at_work = sorted(mark.iterdir(), key=lambda path: path.stat().st_mtime)
        if at_work and len(killed) < 3 and steps > 3_000 * (1 + len(killed)):
            number = int(at_work[-1].name.split("-")[1])
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
                killed.append(number)

    made = generate.generate(plan(tmp_path / "killed"), executor=Ray(2), progress=kill_some)
    assert len(killed) == 3
    assert made.hash == undisturbed.hash


def _named(mark: Path, function: Any, *args: Any, **rest: Any) -> Any:
    """In place of ``partial``: what is handed to the workers says who it is."""
    handed = partial(function, *args, **rest)
    return partial(mapped.slow_block, mark, handed) if function is generate._write_block else handed


TWO_NODES = """
import sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from dom2data import generate
from dom2data.on_ray import Ray
from dom2data.store import layout

layout._BLOCK_EPISODES[25] = 50
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray.init(cluster.address, log_to_driver=False, logging_level="error")  # of two nodes it might take the second
second = cluster.add_node(num_cpus=1)
nodes = []

def progress(what, steps, total):
    if steps > total // 3 and not nodes:
        nodes.append(second)
        cluster.remove_node(second, allow_graceful=False)

todo = generate.plan("tag", "random-medium", steps=20_000, root=Path(sys.argv[1]))
made = generate.generate(todo, executor=Ray(2), progress=progress)
print(made.hash, len(nodes))
"""


def test_a_node_lost_in_mid_generate(undisturbed: Dataset, tmp_path: Path) -> None:
    words = [sys.executable, "-c", TWO_NODES, str(tmp_path / "nodes")]
    run = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2_000:]
    assert f"{undisturbed.hash} 1" in run.stdout.splitlines(), run.stdout[-3_000:] + run.stderr[-2_000:]


COORDINATOR = """
import os, signal, sys
from pathlib import Path
from dom2data import generate
from dom2data.on_ray import Ray
from dom2data.store import layout

layout._BLOCK_EPISODES[25] = 50
todo = generate.plan("tag", "random-medium", steps=20_000, root=Path(sys.argv[1]))
die = lambda what, done, steps: os.kill(os.getpid(), signal.SIGKILL) if done > 5_000 else None
generate.generate(todo, executor=Ray(1), progress=die)
"""


@pytest.mark.usefixtures("cluster")
def test_a_coordinator_killed_in_mid_generate(undisturbed: Dataset, tmp_path: Path) -> None:
    words = [sys.executable, "-c", COORDINATOR, str(tmp_path / "root")]
    killed = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2_000:]
    blocks = tmp_path / "root/.dom2data/stage/dom2/tag-random-medium-v0/blocks"
    assert 4 <= len(list(blocks.glob("*.json"))) < 16
    assert generate.generate(plan(tmp_path / "root"), executor=Ray(2)).hash == undisturbed.hash


@pytest.mark.parametrize("executor", KINDS[2:], ids=["processes", "ray"])
@pytest.mark.usefixtures("cluster")
def test_the_jobs_of_a_killed_worker_are_done_again(executor: Executor, tmp_path: Path) -> None:
    assert sorted(executor.map(partial(mapped.dies_once, tmp_path), range(5))) == [0, 1, 2, 3, 4]
    assert {path.name for path in tmp_path.iterdir()} == {"0", "3"}


@pytest.mark.parametrize("executor", KINDS[2:], ids=["processes", "ray"])
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_dies_every_time_ends_it(executor: Executor) -> None:
    with pytest.raises(UserError, match="killed 3 times") as error:
        list(executor.map(mapped.dies, range(2)))
    assert error.value.code == 1


def test_what_can_be_wrong_with_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()
    with pytest.raises(UserError, match=r"reach Ray at 127.0.0.1:9, found: .*refused") as error:
        list(Ray(2, "127.0.0.1:9").map(mapped.double, [1]))
    assert error.value.code == 1
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"not installed; pip install 'dom2\[ray\]'"):
        list(Ray(2).map(mapped.double, [1]))
