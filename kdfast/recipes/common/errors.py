"""What a recipe says to the person at the command line when it cannot go on."""

from __future__ import annotations

import errno

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # EFBIG: the limit on file size (ulimit -f)


class UserError(Exception):
    """One sentence naming what was given and what is needed; `kdfast` prints it on one line and exits 2."""


class Interrupted(Exception):
    """The person stopped the run; says how to go on. `kdfast` exits 130."""


def why(error: OSError) -> str:
    """The system's reason in words, without the number and the path: 'No space left on device'."""
    return error.strerror or str(error) or type(error).__name__
