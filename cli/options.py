"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

root_option = click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Folder of datasets [$MINARI_DATASETS_PATH, ~/.minari/datasets].",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
run_argument = click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
mismatch_option = click.option(
    "--allow-mismatch",
    is_flag=True,
    help="Go on although the environment is not the data's; the result says so.",
)
