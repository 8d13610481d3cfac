"""Errors that a user can fix: one line that names the thing and what was expected."""


class UserError(ValueError):
    """Something the user gave cannot be used; commands print the message and exit with code 2."""
