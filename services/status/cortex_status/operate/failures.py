"""Why a command came to nothing, each with the exit code that says so.

Called by: the rest of this package (raises), command.py (prints and exits).
"""

from __future__ import annotations


class Failure(Exception):
    """Said to the operator as it is."""

    exit_code = 1


class Refused(Failure):
    """The gateway has said no; the message is its own."""


class Unusable(Failure):
    """The command line, the inventory or the admin key cannot be used."""

    exit_code = 2


class Unanswered(Failure):
    """No gateway has answered."""

    exit_code = 3
