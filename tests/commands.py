"""The two commands, run in this process. Words may be paths and numbers."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner, Result

from dom2_cli import data, learn


def dom2(*words: object, **how: Any) -> Result:
    return CliRunner().invoke(learn.main, [str(word) for word in words], **how)


def dom2data(*words: object) -> Result:
    return CliRunner().invoke(data.main, [str(word) for word in words])
