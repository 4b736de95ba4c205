"""Cards: what they say is what the manifest says, and machines can read it."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import mlcroissant
import numpy as np
import pytest
from commands import dom2data
from small_datasets import in_memory, stored
from tiny import tag_random

from dom2data import dataset, ids, share
from dom2data.convert.ingest import Imported, ingest
from dom2data.errors import UserError
from dom2data.look import card
from dom2data.subsample import subsample

# NeurIPS' minimal set, and what the RAI vocabulary calls them.
RESPONSIBLE = ("dataLimitations", "dataBiases", "personalSensitiveInformation", "dataUseCases",
               "dataSocialImpact", "dataCollection", "dataReleaseMaintenancePlan")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("card")
    found = dataset.open(tag_random())
    card.write(found, ids.root(), target, creator="A. Author", url="https://example.org/data")
    return target


def document(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "croissant.json").read_text())


def test_croissant_is_valid_for_its_makers(folder: Path) -> None:
    read = mlcroissant.Dataset(jsonld=folder / "croissant.json")
    assert read.metadata.ctx.issues.errors == set()
    assert read.metadata.ctx.issues.warnings == set()


def test_croissant_without_address_and_creator_is_valid_too(tmp_path: Path) -> None:
    card.write(dataset.open(tag_random()), ids.root(), tmp_path)
    read = mlcroissant.Dataset(jsonld=tmp_path / "croissant.json")
    assert read.metadata.ctx.issues.errors == set()
    episodes = list(read.records("episodes"))  # from the file beside it, whose hash is checked
    found = dataset.open(tag_random())
    assert [record["episodes/steps"] for record in episodes] == found.lengths.tolist()
    returns = [record["episodes/return"] for record in episodes]
    np.testing.assert_array_equal(np.float32(returns), found.returns)


def test_responsible_fields_are_filled(folder: Path) -> None:
    found = document(folder)
    assert found["conformsTo"][1].endswith("/RAI/1.0")
    for name in RESPONSIBLE:
        text = json.dumps(found[f"rai:{name}"])
        assert len(text) > 20
        assert "more information" not in text.lower()
        assert "todo" not in text.lower()


def test_hash_of_the_archive_is_that_of_the_exported_file(folder: Path, tmp_path: Path) -> None:
    found = dataset.open(tag_random())
    file = share.pack(found, ids.root(), tmp_path / "any.zip")
    archive = document(folder)["distribution"][1]
    assert archive["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert archive["contentUrl"] == "https://example.org/data/tiny-random-v0.zip"


def test_readme_says_what_the_manifest_says(folder: Path) -> None:
    text, found = (folder / "README.md").read_text(), dataset.open(tag_random())
    assert text.startswith("---\nlicense: cc-by-4.0\n")
    for fact in (found.id, found.hash, f"{found.returns.mean():.2f}", "author = {A. Author}", "CC-BY-4.0"):
        assert fact in text
    assert "None" not in text


def test_table_has_a_row_for_each_episode(folder: Path) -> None:
    found = dataset.open(tag_random())
    with (folder / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found.n_episodes
    assert {row["policy"] for row in rows} == {"uniform"}
    np.testing.assert_array_equal(
        np.float32([row["return_predator_1"] for row in rows]), found.agent_returns[:, 1]
    )


def test_data_from_elsewhere_needs_its_own_licence(tmp_path: Path) -> None:
    found = stored(tmp_path / "root", [4, 4])  # a subset of arrays that nobody generated
    with pytest.raises(UserError, match="expected --license"):
        card.write(found, tmp_path / "root", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    card.write(found, tmp_path / "root", tmp_path, license="MIT")
    assert "license: mit" in (tmp_path / "README.md").read_text()
    assert document(tmp_path)["license"] == "https://spdx.org/licenses/MIT.html"


def test_a_card_of_imported_data_says_what_the_import_changed(tmp_path: Path) -> None:
    own = in_memory([4, 4])
    wide = dataclasses.replace(own.spec, act_low=-0.5, act_high=0.5)
    arrays = {name: array for name, array in own.arrays().items() if "returns" not in name}
    clipped = arrays | {"actions": arrays["actions"].clip(-0.5, 0.5)}
    origin = {"operation": "import", "format": "npz"}
    found = ingest(
        Imported(wide, clipped, ("3 of 24 action values clipped",), origin), "dom2/other-v0", tmp_path
    )
    card.write(found, tmp_path, tmp_path, license="MIT")
    told = document(tmp_path)
    assert told["rai:dataPreprocessingProtocol"] == ["Rounded to float32; 3 of 24 action values clipped"]
    assert "Imported files in the format npz (8 steps" in told["rai:dataCollectionRawData"]
    part = subsample(found, 0.5, root=tmp_path, out="part")
    card.write(part, tmp_path, tmp_path, license="MIT", force=True)
    told = document(tmp_path)
    assert told["rai:dataPreprocessingProtocol"][1:] == ["3 of 24 action values clipped"]
    assert "Imported files in the format npz (4 steps" in told["rai:dataCollectionRawData"]


def test_command(tmp_path: Path) -> None:
    words = ["card", tag_random(), "--out", str(tmp_path)]
    assert dom2data(*words).exit_code == 0
    again = dom2data(*words)
    assert again.exit_code == 2
    assert again.stderr.startswith("error: expected a new file, found ")
    assert dom2data(*words, "--force").exit_code == 0
    wrong = dom2data(*words, "--force", "--license", "no such thing")
    assert wrong.exit_code == 2
    assert "SPDX" in wrong.stderr
