"""What a user can mend: the one exception that says so (everything else that escapes is a bug), and a full disk."""

import errno


class UserError(Exception):
    """A mistake a user can mend, told in one line: file or flag, what was found, what to do."""


def disk_is_full(error: OSError) -> bool:
    """Whether a write failed for want of room, on the disk or in the user's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def in_one_line(error: Exception) -> str:
    """What a library has against a file, in at most 200 letters; of several values the first that is wrong."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        text = ": ".join([".".join(str(part) for part in first["loc"]), first["msg"]])
    else:
        text = str(error).strip() or type(error).__name__
        if isinstance(error, KeyError):
            text = f"{text} is missing"
    return " ".join(text.split())[:200]
