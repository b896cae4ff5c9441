"""Errors that a user can mend: the command line shows them as one line, without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Wrong input or a missing piece; the message says what was received, what was expected, and what to do."""
