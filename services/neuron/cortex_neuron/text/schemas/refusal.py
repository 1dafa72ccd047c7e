"""The end of a schema that cannot be kept to. Raised by: schemas. Told by: constraint, with the schema's place."""

from __future__ import annotations


class Refused(Exception):
    """`str` of it says why, by the keyword."""
