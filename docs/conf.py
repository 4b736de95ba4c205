"""Sphinx settings; ``make docs`` builds with every warning an error."""

from importlib.metadata import version as installed

project = "dom2"
author = copyright = "the dom2 authors"
version = release = installed("dom2")

extensions = ["myst_parser", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "dom2"
