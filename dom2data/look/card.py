"""A dataset's card: README.md for people, croissant.json for machines, and the table of episodes.

The publisher chooses licence and creator, and may change them while the data stay the same. So they belong
to the card and not to the manifest.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import jinja2

from dom2data import catalog, new_file, share
from dom2data.dataset import Dataset
from dom2data.derive import ancestors
from dom2data.errors import UserError
from dom2data.look import croissant
from dom2data.look.croissant import File, Words

LICENSE = "CC-BY-4.0"
README, METADATA = "README.md", "croissant.json"


def write(
    dataset: Dataset,
    base: Path,
    folder: Path,
    *,
    license: str | None = None,
    creator: str | None = None,
    url: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Write the three files; return their paths. ``license`` is an SPDX identifier, ``url`` their later URL.

    Raises UserError: code 2 when a file exists and ``force`` is false, or when data made elsewhere have no
    licence; 3 when the dataset does not verify.
    """
    files = [folder / name for name in (README, METADATA, croissant.TABLE)]
    for file in files:
        new_file.require(file, force)
    words = say(dataset, license, creator, url)
    table = episodes(dataset).encode()
    table_file = File(croissant.TABLE, len(table), hashlib.sha256(table).hexdigest())
    archive = archived(dataset, base)
    document = croissant.document(dataset, words, table_file, archive)
    page = readme(dataset, base, words, archive)
    texts = (page.encode(), json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n", table)
    for file, text in zip(files, texts, strict=True):
        with new_file.replacing(file) as partial:
            partial.write_bytes(text)
    return files


def say(dataset: Dataset, license: str | None, creator: str | None, url: str | None) -> Words:
    """Return the texts of a card. Raises UserError (code 2) for data made elsewhere without a licence."""
    manifest = dataset.manifest
    recipes = [origin["recipe"] or {} for origin in ancestors(manifest)]
    made_here = all("quality" in recipe and "operation" not in recipe for recipe in recipes)
    if license is None and not made_here:
        raise UserError(
            f"expected --license for {dataset.id}, which came from elsewhere, found none; "
            "ask its authors for its SPDX identifier, such as CC-BY-4.0"
        )
    if license is not None and not re.fullmatch(r"[A-Za-z0-9.+-]+", license):
        raise UserError(f"expected an SPDX identifier such as {LICENSE}, found {license!r}")
    quality = f", quality {manifest['quality']}" if manifest["quality"] else ""
    description = (
        f"Offline multi-agent reinforcement learning data of {dataset.env}{quality}: {len(dataset):,} steps "
        f"in {dataset.n_episodes:,} whole episodes of {dataset.spec.n_agents} agents, with a return for each."
    )
    recipe = json.dumps(manifest["recipe"], sort_keys=True)
    how = "Behaviour policies were rolled out in a simulator" if made_here else "Imported from another format"
    synthetic = f"{how} by dom2 {manifest['versions']['dom2']}; the recipe regenerates the data: {recipe}"
    if not made_here:
        synthetic = f"{how} with dom2 {manifest['versions']['dom2']}: {recipe}"
    return Words(description, license or LICENSE, citation(manifest, creator, url), url, creator, synthetic)


def citation(manifest: dict[str, Any], creator: str | None, url: str | None) -> str:
    """Return the BibTeX entry."""
    key = re.sub(r"\W", "-", manifest["id"])
    fields = {
        "title": manifest["id"],
        "author": creator,
        "year": manifest["created"][:4],
        "url": url,
        "note": f"dom2 {manifest['versions']['dom2']}, content hash {manifest['hash']}",
    }
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
    return f"@misc{{{key},\n{lines}\n}}"


def episodes(dataset: Dataset) -> str:
    """Return the table of episodes as CSV, with the columns of ``croissant.columns``."""
    names = dataset.manifest.get("sources") or []
    source = [
        str(names[k]) if 0 <= k < len(names) else f"source {k}" for k in dataset.array("source").tolist()
    ]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(croissant.columns(dataset.spec.agent_names))
    ends = (dataset.array("terminated").tolist(), dataset.array("truncated").tolist())
    agents = dataset.agent_returns.tolist()
    rows = zip(dataset.lengths.tolist(), dataset.returns.tolist(), agents, *ends, source, strict=True)
    for i, (steps, team, each, terminated, truncated, policy) in enumerate(rows):
        table.writerow((i, steps, team, *each, terminated, truncated, policy))
    return text.getvalue()


def archived(dataset: Dataset, base: Path) -> File:
    """Return name, size and SHA-256 of the zip file from ``dom2data export``, always with the same bytes."""
    name = f"{dataset.id.rpartition('/')[2]}.zip"
    with tempfile.TemporaryDirectory(prefix="dom2data-") as folder:
        file = share.pack(dataset, base, Path(folder, name))
        with file.open("rb") as stream:
            return File(name, file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())


def readme(dataset: Dataset, base: Path, words: Words, archive: File) -> str:
    """Return the card as Markdown, with the YAML header for the Hugging Face Hub."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return template.get_template("card.md").render(
        summary=catalog.summary(dataset.manifest, base),
        short=dataset.id.rpartition("/")[2],
        words=words,
        archive=archive,
        recipe=json.dumps(dataset.manifest["recipe"], indent=1, sort_keys=True),
    )
