"""Keeps the numbers of the standard streams from what is no standard stream.

A process may have been started, or made itself a daemon, with its standard input, output or error closed. The next file or
socket that it opens gets such a number: what anybody prints then goes to a node, and uvloop ends the process.
"""

from __future__ import annotations

import os


def keep_standard_streams() -> None:
    """Open the null device in place of standard streams that are closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given out first, and those before are open.
            opened = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if opened != number:  # another thread was faster
                os.close(opened)
