"""What a recipe says to the person at the command line when it cannot go on."""

from __future__ import annotations

import errno

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # EFBIG: the limit on file size (ulimit -f)


class UserError(Exception):
    """One sentence naming what was given and what is needed; `kdfast` prints it on one line and exits 2."""


class Interrupted(Exception):
    """The run was stopped by a signal; says how to go on. `kdfast` exits with `status`: 128 + the signal."""

    def __init__(self, sentence: str, status: int = 130) -> None:
        super().__init__(sentence)
        self.status = status


def why(error: OSError) -> str:
    """The system's reason in words, without the number and the path: 'No space left on device'."""
    return error.strerror or str(error) or type(error).__name__
