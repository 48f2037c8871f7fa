"""The one exception that means "the user can mend this"; everything else that escapes is a bug."""


class UserError(Exception):
    """A mistake a user can mend, told in one line: file or flag, what was found, what to do."""
