"""What the child processes of tests need."""

from __future__ import annotations

import signal


def heeds_interrupts() -> None:
    """As ``preexec_fn``: a shell that runs tests in the background hands down a SIGINT that is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
