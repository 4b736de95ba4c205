"""Fill the tables of results in the documentation from the reports under ``docs/results``.

A page asks for one between two comments, and what stands between them is replaced:

    <!-- table: comparison everything -->     every algorithm's return on each dataset, from comparison.json
    <!-- table: table2 everything medium -->  the same on datasets of these qualities alone
    <!-- table: comparison dom2 omar -->      these algorithms', with scores, beside the published ones
    <!-- table: comparison together -->       those that are there on every dataset, over all datasets
    <!-- table: comparison halves -->         the same over those of a searched quality, and over the others
    <!-- table: table2 shifts -->             standard -> shifted, each shift, from table2.json
    <!-- table: figure2 solutions -->         both returns and the solutions found, from figure2.json
    <!-- table: presets -->                   DOM2's eta and zeta on every dataset
    <!-- end -->

``python docs/tables.py`` writes them; a test holds that they say what the reports say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dom2 import earlier, experiments, paper, presets, statistics, tables
from dom2.board import interval, number, signed
from dom2.diversity import Solutions
from dom2data import envs

ROOT = Path(__file__).resolve().parent.parent
TITLES = {
    "omiga": "OMIGA",
    "ma-sfbc": "MA-SfBC",
    "ma-diffusion-ql": "MA-Diffusion-QL",
    "madiff": "MADiff-D",
    "madiff-c": "MADiff-C",
}
NBSP = "\N{NO-BREAK SPACE}"
RETURNS = ("table1", "table3")
"""the published tables of returns in the standard environments"""
SEARCHED = ("medium", "medium-replay")
"""the qualities on which settings were searched"""
REGION = re.compile(r"(<!-- table: (.+?) -->\n)(.*?)(<!-- end -->)", re.S)

Entry = dict[str, Any]
Rows = dict[str, dict[str, Entry]]
"""by dataset, then by column"""


def filled(page: str) -> str:
    """A page with its tables made anew."""
    return REGION.sub(lambda found: f"{found[1]}\n{table(*found[2].split())}\n{found[4]}", page)


def table(report: str, *words: str) -> str:
    """The lines of one table."""
    if report == "presets":
        return chosen()
    file = ROOT / "docs" / "results" / f"{report}.json"
    if words in (("together",), ("halves",)):
        return (together if words == ("together",) else halves)(earlier.read(file))
    document = json.loads(file.read_text())
    views: dict[str, Callable[[list[Entry]], str]] = {
        "everything": everything,
        "shifts": shifts,
        "solutions": solutions,
    }
    if words[0] in views:
        entries = document["entries"]
        return views[words[0]]([each for each in entries if each["quality"] in words[1:] or len(words) == 1])
    return some(document["entries"], words)


def everything(entries: list[Entry]) -> str:
    """For each environment the returns of all algorithms, one below another, on its datasets, the highest on
    each bold, and the published ones of DOM2."""
    found = []
    for env in dict.fromkeys(each["env"] for each in entries):
        listed = by_dataset([each for each in entries if each["env"] == env], "none")
        best = [max(each["mean"] for each in row.values()) for row in listed.values()]
        lines = [["the data", *(number(level(row)) for row in listed.values())]]
        for label in columns(entries):
            mine = zip((row.get(label) for row in listed.values()), best, strict=True)
            cells = [spread(each, bold=each["mean"] == top) if each else "–" for each, top in mine]
            lines.append([title(label), *cells])
        lines.append(["DOM2, published", *(published(row, RETURNS, "dom2") for row in listed.values())])
        found.append(lined([env, *(name.removeprefix(f"{env}-") for name in listed)], lines))
    return "\n".join(found)


def some(entries: list[Entry], labels: tuple[str, ...]) -> str:
    """Returns and scores of a few columns, each with what the two papers print for it."""
    listed = by_dataset([each for each in entries if each["label"] in labels], "none")
    header, kept = ["dataset", "data"], [[name, number(level(row))] for name, row in listed.items()]
    for label in labels:
        header.append(f"{title(label)}, return (score)" if len(labels) == 1 else title(label))
        for cells, row in zip(kept, listed.values(), strict=True):
            cells.append(f"{spread(row[label])} ({number(row[label]['score'])})" if label in row else "–")
        for of, name in ((RETURNS, "published return"), (("comparison",), "published score")):
            cited = [published(row, of, label) for row in listed.values()]
            if set(cited) != {"–"}:
                header.append(name)
                for cells, value in zip(kept, cited, strict=True):
                    cells.append(value)
    return lined(header, kept) if kept else "Not measured on the tasks yet."


def shifts(entries: list[Entry]) -> str:
    """Mean returns of every column in the standard and in every shifted environment."""
    names, labels = shifts_of(entries), columns(entries)
    standard, *shifted = (by_dataset(entries, shift) for shift in ("none", *names))
    lines = []
    for name, row in standard.items():
        rows = (row, *(each.get(name, {}) for each in shifted))
        means = ([each.get(label, {}).get("mean") for each in rows] for label in labels)
        lines.append([name, *(" → ".join(map(number, each)) if any(each) else "–" for each in means)])
    return lined([f"return, {' → '.join(('standard', *names))}", *map(title, labels)], lines)


def solutions(entries: list[Entry]) -> str:
    """For each dataset the returns of every column in both environments, and how many solutions it finds."""
    (shift,) = shifts_of(entries)
    shifted, counted = by_dataset(entries, shift), Solutions._fields
    found = []
    for name, row in by_dataset(entries, "none").items():
        lines = []
        for label, each in row.items():
            moved, of = shifted.get(name, {}).get(label), each["solutions"]
            values = [f"{of['mean'][what]:.2f}{NBSP}±{NBSP}{of['std'][what]:.2f}" for what in counted]
            lines.append([title(label), spread(each), spread(moved) if moved else "–", *values])
        found.append(lined([name, "standard", shift, *counted], lines))
    return "\n".join(found)


def chosen() -> str:
    """The presets of DOM2's eta and zeta."""
    lines = []
    for env in envs.NAMES:
        values = (presets.defaults("dom2", env, quality) for quality in experiments.QUALITIES)
        lines.append([env, *(f"{each['eta']:g} / {each['zeta']:g}" for each in values)])
    return lined(["η / ζ", *experiments.QUALITIES], lines)


def together(entries: list[tables.Entry]) -> str:
    """Scores over all datasets, in the standard environment, of the columns that have every one, the highest
    IQM first."""
    standard = [each for each in entries if each.shift == "none"]
    found = [each for each in tables.aggregate(standard) if each["iqm"] is not None]
    lines = []
    for each in sorted(found, key=lambda each: -each["iqm"]):
        better, label = each["improvement"], each["label"]
        chance = f"{better['mean']:.2f} ({interval(better['ci'], 2)})".replace(" ", NBSP) if better else "–"
        wins = f"{each['wins']['highest']} ({each['wins']['certain']})"
        ends = interval(each["ci"]).replace(" ", NBSP)
        lead = each["lead"]
        ahead = f"{signed(lead['mean'])} ({interval(lead['ci'])})".replace(" ", NBSP) if lead else "–"
        lines.append([title(label), number(each["mean"]), number(each["iqm"]), ends, ahead, chance, wins])
    ahead = "DOM2's lead (95 % over datasets)"
    header = ["", "mean score", "IQM", "95 %", ahead, "P(DOM2 better) (95 %)", "highest mean (certain)"]
    return lined(header, lines)


def halves(entries: list[tables.Entry]) -> str:
    """Mean scores over the datasets of the qualities that were searched, and over the others, the highest of
    the others first. Of four datasets an interquartile mean would leave out two whole ones."""
    rows = tables.fair(entries)
    parts: list[list[dict[str, tables.Entry]]] = [[], []]
    for row in rows:
        parts[next(iter(row.values())).quality not in SEARCHED].append(row)
    found = []
    for label in rows[0]:
        values = [tables.samples(part, label) for part in parts]
        means = [float(statistics.average(*each)) for each in values]
        ends = [interval(statistics.interval(statistics.average, each)) for each in values]
        cells = [f"{number(m)} ({e})".replace(" ", NBSP) for m, e in zip(means, ends, strict=True)]
        found.append((means[1], [title(label), *cells]))
    others = (q for q in experiments.TARGETS["comparison"].qualities if q not in SEARCHED)
    header = ["mean score (95 %)", ", ".join(SEARCHED), ", ".join(others)]
    return lined(header, [cells for _, cells in sorted(found, key=lambda each: -each[0])])


def shifts_of(entries: list[Entry]) -> list[str]:
    """The shifts of a report's entries, each once."""
    return [shift for shift in dict.fromkeys(each["shift"] for each in entries) if shift != "none"]


def by_dataset(entries: list[Entry], shift: str) -> Rows:
    found: Rows = {}
    for each in entries:
        if each["shift"] == shift:
            part = "" if each["fraction"] == 1.0 else f" {100 * each['fraction']:g} %"
            found.setdefault(f"{each['env']}-{each['quality']}{part}", {})[each["label"]] = each
    return found


def columns(entries: list[Entry]) -> list[str]:
    """The columns that have an entry, in the order of the comparison, others last."""
    there = dict.fromkeys(each["label"] for each in entries)
    return [c for c in experiments.COMPARED if c in there] + [
        c for c in there if c not in experiments.COMPARED
    ]


def level(row: dict[str, Entry]) -> float:
    """Mean return of the data."""
    return next(iter(row.values()))["data"]


def published(row: dict[str, Entry], of: tuple[str, ...], label: str) -> str:
    """What the first of these published tables that has such a cell prints in it."""
    one = next(iter(row.values()))
    if one["fraction"] != 1.0:
        return "–"
    found = (paper.find(name, one["env"], one["quality"], "none", label) for name in of)
    cell = next(filter(None, found), None)
    return f"*{number(cell.mean)}{NBSP}±{NBSP}{number(cell.std)}*" if cell else "–"


def title(label: str) -> str:
    if label in experiments.ablations() and label != "dom2":
        return f"DOM2, {label}"
    name, _, rest = label.partition(" ")
    return f"{TITLES.get(name, name.upper())} {rest}".strip()


def spread(entry: Entry, bold: bool = False) -> str:
    mark = "**" if bold else ""
    return f"{mark}{number(entry['mean'])}{NBSP}±{NBSP}{number(entry['std'])}{mark}"


def lined(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, all columns but the first to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return (
        "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)).replace("|  |", "| |") + "\n"
    )


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


if __name__ == "__main__":
    for file in pages():
        file.write_text(filled(file.read_text()))
