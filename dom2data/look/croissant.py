"""Croissant 1.0 metadata with the RAI vocabulary 1.0, as JSON-LD, from a manifest.

The format is defined by MLCommons (https://docs.mlcommons.org/croissant). The record set is the table
``episodes.csv``, written beside it; the arrays are in the archive that ``dom2data export`` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dom2data.dataset import Dataset
from dom2data.derive import ancestors

CONFORMS_TO = ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"]
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
TABLE, ARCHIVE, FILES = "episodes.csv", "archive", "arrays"


@dataclass(frozen=True)
class File:
    """A file that the metadata describes."""

    name: str
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Words:
    """The texts of a card that are not in the manifest."""

    description: str
    license: str
    citation: str
    url: str | None
    creator: str | None
    synthetic: str
    """how the data was collected, as a sentence"""


def document(dataset: Dataset, words: Words, table: File, archive: File) -> dict[str, Any]:
    """Return the JSON-LD document."""
    manifest, short = dataset.manifest, dataset.id.rpartition("/")[2]
    base = f"{words.url.rstrip('/')}/" if words.url else ""
    found: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": short,
        "description": words.description,
        "conformsTo": CONFORMS_TO,
        "citeAs": words.citation,
        "license": f"https://spdx.org/licenses/{words.license}.html",
        "version": f"{short.rpartition('-v')[2]}.0.0",
        "datePublished": manifest["created"][:10],
        "dateCreated": manifest["created"][:10],
        "keywords": [
            "offline reinforcement learning",
            "multi-agent",
            dataset.env,
            manifest["quality"] or "imported",
        ],
        "identifier": f"dom2data:{manifest['hash']}",
        "isLiveDataset": False,
        **responsible(dataset, words),
        "distribution": [
            file_object(TABLE, table, base, "text/csv", "One row for each episode."),
            file_object(
                ARCHIVE,
                archive,
                base,
                "application/zip",
                "Zarr v3 arrays and manifest, from `dom2data export`.",
            ),
            {
                "@type": "cr:FileSet",
                "@id": FILES,
                "name": FILES,
                "description": "The Zarr v3 arrays; their layout is in manifest.json.",
                "containedIn": {"@id": ARCHIVE},
                "encodingFormat": "application/vnd+zarr",
                "includes": "**/data/**",
            },
        ],
        "recordSet": [records(dataset.spec.agent_names)],
    }
    if words.url:
        found["url"] = words.url
    if words.creator:
        found["creator"] = {"@type": "sc:Person", "name": words.creator}
    return found


def file_object(name: str, file: File, base: str, encoding: str, description: str) -> dict[str, Any]:
    """Return the entry of a file of the card, at ``base``."""
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": file.name,
        "description": description,
        "contentUrl": base + file.name,
        "contentSize": f"{file.nbytes} B",
        "encodingFormat": encoding,
        "sha256": file.sha256,
    }


def columns(agents: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the columns of the table: name -> (type, description)."""
    return {
        "episode": ("sc:Integer", "Number of the episode, from 0."),
        "steps": ("sc:Integer", "Length of the episode in steps."),
        "return": ("sc:Float", "Undiscounted team return."),
        **{f"return_{name}": ("sc:Float", f"Undiscounted return of {name}.") for name in agents},
        "terminated": ("sc:Boolean", "The last step ended the task."),
        "truncated": ("sc:Boolean", "The time limit ended the episode."),
        "policy": ("sc:Text", "The behaviour policy that recorded the episode."),
    }


def records(agents: Sequence[str]) -> dict[str, Any]:
    """Return the record set: the fields of the table of episodes and their columns."""
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"episodes/{name}",
            "name": name,
            "description": description,
            "dataType": kind,
            "source": {"fileObject": {"@id": TABLE}, "extract": {"column": name}},
        }
        for name, (kind, description) in columns(agents).items()
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": "episodes",
        "name": "episodes",
        "description": "One record for each episode.",
        "key": {"@id": "episodes/episode"},
        "field": fields,
    }


def responsible(dataset: Dataset, words: Words) -> Mapping[str, Any]:
    """Return the RAI fields. The manifest supports all statements; none is a placeholder."""
    manifest, spec = dataset.manifest, dataset.spec
    facts = f"{len(dataset):,} steps in {dataset.n_episodes:,} episodes of {dataset.env}"
    recipes = [origin["recipe"] or {} for origin in ancestors(manifest)]
    imports = [recipe for recipe in recipes if recipe.get("operation") == "import"]
    raw = "None: the simulator's output is stored directly"
    if imports:
        formats = ", ".join(dict.fromkeys(str(recipe.get("format")) for recipe in imports))
        rest = "" if len(imports) == len(recipes) else "; the rest is the simulator's output, stored directly"
        raw = f"Imported files in the format {formats}{rest}"
    notes = (str(note) for recipe in imports for note in recipe.get("notes", ()))
    changes = ["whole episodes chosen from other datasets."] if manifest["parents"] else []
    changes = [*changes, *dict.fromkeys(notes)] or ["nothing else."]
    return {
        "rai:dataCollection": words.synthetic,
        "rai:dataCollectionType": ["Software Collection"],
        "rai:dataCollectionRawData": f"{raw} ({facts}).",
        "rai:dataCollectionMissingData": "None: every value of every step is present and finite.",
        "rai:dataPreprocessingProtocol": [f"Rounded to float32; {changes[0]}", *changes[1:]],
        "rai:dataUseCases": ["Training and comparing offline multi-agent reinforcement learning algorithms."],
        "rai:dataLimitations": [
            f"A simulation of {dataset.env} with environment fingerprint {spec.fingerprint}: results do not "
            "carry over to other versions of the environment, other rewards or other preys without a check."
        ],
        "rai:dataBiases": [
            "States and actions are those that the recorded behaviour policies reach "
            f"({', '.join(map(str, manifest['sources'])) or 'unknown'}); others are rare or absent."
        ],
        "rai:personalSensitiveInformation": ["None: no person is recorded or described."],
        "rai:dataSocialImpact": "None is known: the data is of simulated particles and robots.",
        "rai:dataReleaseMaintenancePlan": "Immutable: changed data get a new version and a new hash "
        f"(this one: {manifest['hash']}).",
    }  # fmt: skip
