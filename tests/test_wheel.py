"""The wheel holds what it should and shadows nobody's ``policies`` or ``cli``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IMPORTED = ("dom2", "dom2data", "dom2_policies", "dom2_cli")


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=env or None, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist and the wheel made from it, from a copy: a stale ``build/`` would leak into the wheel."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    if subprocess.run(listed, cwd=ROOT, capture_output=True).returncode:
        pytest.skip("not a git checkout")
    for name in run(*listed, cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=source)
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


def test_top_level_names_are_only_ours(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == set(IMPORTED)


def test_policies_and_report_template_are_shipped(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {path.name for path in (ROOT / "policies/zoo").glob("*.*")}
    assert {"zoo.json"} < shipped
    assert {f"dom2_policies/zoo/{name}" for name in shipped} <= names
    assert "dom2/report.html" in names


def test_sdist_holds_the_licence_and_the_sources(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"LICENSE", "README.md", "pyproject.toml", "policies/zoo/zoo.json", "cli/data.py"} <= names


def test_installed_wheel_does_not_shadow_a_users_folders(wheel: Path, tmp_path: Path) -> None:
    """Imported from a folder that has its own ``policies`` and ``cli``, both theirs and ours are found."""
    target, project = tmp_path / "target", tmp_path / "project"
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target")
    run(*pip, target, wheel, cwd=tmp_path)
    for name in ("policies", "cli"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("OWNER = 'user'\n")
    code = (
        "import policies, cli, dom2, dom2data, dom2_policies, dom2_cli.data, dom2_cli.learn\n"
        "assert policies.OWNER == cli.OWNER == 'user'\n"
        "print(*(m.__file__ for m in (dom2, dom2data, dom2_policies, dom2_cli)), sep='\\n')"
    )
    files = run(sys.executable, "-c", code, cwd=project, PYTHONPATH=str(target)).splitlines()
    assert [Path(file).parent for file in files] == [target / name for name in IMPORTED]
