"""Loading, drawing and listing, against the bare operation on the same bytes. Timing decides no test."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from timing import best

from dom2data import dataset
from dom2data.dataset import Dataset
from dom2data.generate import generate, plan
from dom2data.sampler import Sampler, Thresholds
from dom2data.store import zarr  # noqa: F401  (its import is not what is measured)

pytestmark = pytest.mark.benchmark

Record = Callable[[str, float, str], None]
BATCH = 1024


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    root = tmp_path_factory.mktemp("speed")
    return generate(plan("tag", "medium", root=root)), root


def test_load_against_npy(record: Record, million: tuple[Dataset, Path]) -> None:
    """A million steps of three agents, from the page cache."""
    made, root = million
    for name, values in made.arrays().items():
        np.save(root / f"{name}.npy", values)
    names = list(made.arrays())
    npy, ours = best(
        lambda: [np.load(root / f"{name}.npy", allow_pickle=False) for name in names],
        lambda: dataset.open(made.id, root).arrays(),
    )
    record("load 10^6 steps x 3 agents as npy", 1e3 * npy, "ms")
    record("… as a dataset, checksums and hashes included", 1e3 * ours, "ms")
    record("… against npy", 100 * ours / npy, "%")


def test_minibatch_against_index_select(record: Record, million: tuple[Dataset, Path]) -> None:
    """One minibatch of 1,024 transitions for each of three agents, all fields, one thread."""
    made, _ = million
    n, generator = made.spec.n_agents, torch.Generator().manual_seed(0)
    obs = torch.from_numpy(made.array("observations")).reshape(-1, made.spec.obs_dim)
    actions = torch.from_numpy(made.array("actions")).reshape(-1, made.spec.act_dim)
    rewards, ends = torch.from_numpy(made.array("rewards")).reshape(-1), torch.zeros(len(made))
    drawn = [torch.randint(len(made) - 1, (n * BATCH,), generator=generator) for _ in range(100)]
    rows = [(index * n, index) for index in drawn]

    def bare() -> None:
        for flat, step in rows:
            for field, index in (
                (obs, flat),
                (obs, flat + n),
                (actions, flat),
                (rewards, flat),
                (ends, step),
            ):
                field.index_select(0, index)

    sampler = Sampler(made, Thresholds(), BATCH, [generator])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gather, sample = best(bare, lambda: [sampler.sample() for _ in rows])
    torch.set_num_threads(threads)
    record("index_select of all fields, 3 x 1,024 rows", 1e6 * gather / len(rows), "µs")
    record("the sampler's minibatch, drawing included", 1e6 * sample / len(rows), "µs")
    record("… against index_select", 100 * sample / gather, "%")


@pytest.mark.parametrize("words", [("--help",), ("list",), ("show", "tag-medium"), ("verify", "--help")])
def test_start(record: Record, million: tuple[Dataset, Path], words: tuple[str, ...]) -> None:
    """The whole process, in a root of a hundred datasets of a million steps (their manifests)."""
    made, root = million
    hundred = root / "hundred"
    for i in range(100):
        target = hundred / f"dom2/tag-medium-v{i}/data"
        if not target.exists():
            shutil.copytree(root / made.id / "data", target, ignore=lambda _, names: {*names} & {"c"})
    command = [sys.executable, "-c", "from dom2_cli.data import main; main()", *words]
    command += [] if "--help" in words else ["--root", str(hundred)]
    (seconds,) = best(lambda: subprocess.run(command, check=True, capture_output=True), times=10)
    record(f"dom2data {' '.join(words)}, of 100 datasets", 1e3 * seconds, "ms")
