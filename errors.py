"""What a user can mend: the one exception that says so (everything else that escapes is a bug), and a full disk."""

import errno


class UserError(Exception):
    """A mistake a user can mend, told in one line: file or flag, what was found, what to do."""


def disk_is_full(error: OSError) -> bool:
    """Whether a write failed for want of room, on the disk or in the user's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
