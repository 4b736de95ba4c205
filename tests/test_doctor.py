from pathlib import Path

import pytest

from dom2 import doctor
from dom2data import envs


def test_this_installation_is_whole() -> None:
    found = doctor.examine()
    assert found["problems"] == []
    assert found["environments"] == dict.fromkeys(envs.NAMES, "ok")
    assert found["versions"].keys() >= {"torch", "zarr", "numba", "click"}
    assert "pytest" in found["extras"]
    assert doctor.text(found).splitlines()[-1].split() == ["problem", "none"]


def test_what_is_missing_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "requirements", lambda name: (["no-such-package"], []))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)

    def broken(name: str, num_envs: int) -> None:
        raise OSError("no prey")

    monkeypatch.setattr(envs, "make", broken)
    problems = "\n".join(doctor.examine()["problems"])
    assert "no-such-package: not installed" in problems
    assert "datasets: cannot write" in problems
    assert "environment tag: OSError: no prey" in problems


def test_a_url_as_the_place_of_datasets_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", "s3://bucket/folder")
    found = doctor.examine()
    assert found["problems"] == []
    assert "s3://bucket/folder, a URL" in doctor.text(found)


def test_requirements_are_those_of_the_metadata() -> None:
    needed, extras = doctor.requirements("dom2")
    assert "safetensors" in needed
    assert "ruff" in extras
    assert not set(needed) & set(extras)
