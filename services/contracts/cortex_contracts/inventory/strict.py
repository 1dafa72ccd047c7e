"""What every shape of the inventory has in common, and the names they share.

Called by: fleet.py, clients.py, files.py.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

ModelId = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][\w.:/-]*$", max_length=200, examples=["qwen3-8b", "Qwen/Qwen3-8B"])
]


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """YAML's `yes` and `on` are true, which pydantic would take for 1."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise PydanticCustomError("no_truth_value", "should not be true or false")
        return value
