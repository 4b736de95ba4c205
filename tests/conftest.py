"""What every test gets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

# A slow machine is not a failure; and the same examples each time, so that neither is luck.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _dataset_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the datasets of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("datasets")))
        yield
