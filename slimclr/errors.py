"""Errors that the command line prints as one line: UserError, and what the operating system refuses or lacks."""

import errno
import os
import re
import resource
from collections.abc import Sequence
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


_NO_MEMORY = re.compile(
    r"out of memory|allocate memory|bad_alloc|start new thread|launch worker thread|failed to map segment",
    re.IGNORECASE,
)
_NO_SHARED_MEMORY = re.compile(r"unable to \w+ .*(torch_\d|shared memory)|insufficient shared memory", re.IGNORECASE)
_NO_FILES = re.compile(r"too many open files", re.IGNORECASE)


class UserError(ValueError):
    """Something the user can mend: bad input, a missing file, an impossible setting.

    The message is one line that says what is wrong, where, and how to mend it. `slimclr.cli` prints it without a
    traceback and exits with code 2, as it does with an OSError that `refusal` can explain; every other exception is a
    defect of ours and keeps its traceback.
    """

    def __str__(self) -> str:
        """The message, which may quote a file: what would steer a terminal is shown, not sent."""
        return "\n".join(printable(line) for line in super().__str__().split("\n"))


def printable(text: str) -> str:
    r"""Text in one line: blank for tab and line break, `\x1b` for whatever else no one can see or a terminal obeys."""
    return "".join(
        character if character.isprintable() else " " if character in "\t\n\r" else ascii(character)[1:-1]
        for character in text
    )


def refusal(error: OSError, written: Sequence[Path]) -> str | None:
    """What the operating system refused, in one line.

    Args:
        error: Names the file, or came from writing an open one, when the system does not say which.
        written: What the command writes, for a full disk without a name.

    Returns:
        The line; None when the user has no file or disk to mend.
    """
    full = error.errno in _FULL
    where = str(error.filename) if error.filename is not None else " or ".join(map(str, written)) if full else ""
    if error.errno is None or not where:
        return None
    if full:
        mend = "free space and run this stage again"
    elif error.errno in _FORBIDDEN:
        mend = "get yourself the permission, or give another path"
    else:
        mend = "correct the path, or mend that and run this stage again"
    # Not the error's own words, in which pyarrow repeats its number.
    return f"{where}: {os.strerror(error.errno)}; {mend}"


def exhausted(error: BaseException | None) -> str | None:
    """What the machine has no more of, in one line.

    Args:
        error: What ended the command. Libraries say it in many ways, and raise other errors because of it.

    Returns:
        The line; None when there was enough of memory and open files.
    """
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        said = " ".join(str(error).split())
        if number in (errno.EMFILE, errno.ENFILE) or _NO_FILES.search(said):
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            return f"no more than {limit} files may be open; raise that with 'ulimit -n', or use fewer workers"
        if _NO_SHARED_MEMORY.search(said):
            return "/dev/shm has no room for the images of the loader's workers; enlarge it, or use fewer workers"
        if isinstance(error, MemoryError) or number == errno.ENOMEM or _NO_MEMORY.search(said):
            told = f" ({printable(said[:300])})" if said else ""
            return (
                f"out of memory{told}; give this stage more, or use fewer workers or a smaller batch, and run it again"
            )
        error = error.__cause__ or error.__context__
    return None
