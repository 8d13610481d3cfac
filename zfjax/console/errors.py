"""Errors that a user can mend: one line that names the thing and what was expected."""


class UserError(Exception):
    """Something the user gave cannot be used; commands print the line and exit with code 2."""
