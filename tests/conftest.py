"""What every test gets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A slow machine is not a failure; and the same examples each time, so that neither is luck.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

LONGEST = (
    "executors", "docs", "sweep", "reproduce", "dom2", "crash", "graphed", "portable", "fit", "cache"
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin first, so that no process is left alone with one of them at the end."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _dataset_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the datasets, or the settings, of whoever runs it.

    Nor does it wait for the disk: only a power cut could tell, and half of the time of a small dataset goes
    there. Commands in processes of their own do as ever. A GPU is left alone: it computes otherwise.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        for name in ("DOM2DATA_CACHE", "DOM2_NAMED"):
            patch.delenv(name, raising=False)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("datasets")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for a test's datasets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 20 episodes of tag and its like, decided here and carried to the workers with their jobs."""
    from dom2data.store import layout

    monkeypatch.setitem(layout._BLOCK_EPISODES, 25, 20)


@pytest.fixture(scope="session")
def s3() -> Iterator[None]:
    """An S3 server with the bucket ``bucket``, found through the environment as any other would be."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("bucket")
        yield
    server.stop()


@pytest.fixture(params=["file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place of each kind."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://bucket/{tmp_path.name}"
    return f"file://{tmp_path}/there" if request.param == "file" else f"memory://{tmp_path.name}"
