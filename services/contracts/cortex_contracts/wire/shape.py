"""What the wire shapes of both dialects are made of.

Called by: openai.py and anthropic.py beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Discriminator, Field

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

Finite = Annotated[float, Field(allow_inf_nan=False)]
TokenLimit = Annotated[int, Field(ge=1, le=INT32_MAX)]
# A field of an answer that is left out when there is nothing to say; other null fields are sent as null.
LeftOut = Field(default=None, exclude_if=lambda value: value is None)


class Shape(BaseModel):
    """No value is converted on the way in: a number in quotes is not a number."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())


class Lenient(Shape):
    """A shape inside a message, where clients send back what servers of all kinds once added."""

    model_config = ConfigDict(extra="ignore")


def string_or_list(value: object) -> str | None:
    """The tag of a union's branch: `string` or `list`."""
    if isinstance(value, str):
        return "string"
    return "list" if isinstance(value, list) else None


def either(expected: str, tag_of: Callable[[object], str | None] = string_or_list) -> Discriminator:
    """Chooses a union's branch by the value's type, so that an error is about one branch only."""
    return Discriminator(tag_of, custom_error_type="wrong_type", custom_error_message=f"Input should be {expected}")
