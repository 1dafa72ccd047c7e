"""What a client asks: the few things routing must know, and the bytes as they came.

Owns: reading `model` and `stream` out of a body without touching it (case W11), and which headers go on.
Called by: api/inference.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from cortex_contracts.inventory.clients import PriorityClass
from cortex_contracts.inventory.fleet import Model
from cortex_contracts.wire.errors import InvalidJson, InvalidParameter, InvalidRequest
from cortex_dialects.dialect import Dialect

_PASSED_ON = ("content-type", "accept", "user-agent", "traceparent", "tracestate")
_PASSED_ON_PREFIXES = ("anthropic-", "openai-", "x-stainless-")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_AT_PATH = re.compile(r" - at `\$\.(\w+)`")
_NOTHING = msgspec.Raw()
_MISSING = re.compile(r"missing required field `(\w+)`")


class Brief(msgspec.Struct):
    """What routing needs of any body. The raw values are views of its bytes: nothing in them is decoded."""

    model: str
    stream: bool | None = False
    tools: msgspec.Raw = _NOTHING
    system: msgspec.Raw = _NOTHING
    instructions: msgspec.Raw = _NOTHING
    messages: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING

    def parts(self) -> tuple[msgspec.Raw, ...]:
        """The prompt, in the order that chat templates put it in."""
        return self.tools, self.system, self.instructions, self.messages, self.prompt, self.input


@dataclass(frozen=True, slots=True)
class Call:
    """One request for a model. `name` is what the client called the model, `prompt` the raw values it consists of."""

    model: Model
    name: str
    dialect: Dialect
    path: str
    body: bytes
    headers: dict[str, str]
    stream: bool
    request_id: str
    prompt: tuple[bytes, ...] = ()


_decode = msgspec.json.Decoder(Brief).decode


def read_brief(body: bytes) -> Brief:
    """`model` and `stream` of a body. Raises InvalidJson, or InvalidParameter naming the one that is wrong."""
    try:
        return _decode(body)
    except msgspec.ValidationError as failure:
        text = str(failure)
        found = _AT_PATH.search(text) or _MISSING.search(text)
        param = found[1] if found else None
        reason = text.split(" - at ")[0]
        raise InvalidParameter(f"{param}: {reason}" if param else reason, param=param) from failure
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as failure:
        raise InvalidJson(f"the body is not JSON: {failure}" if body else "the body is empty") from failure


def with_model(body: bytes, model_id: str) -> bytes:
    """The body with another `model`; every other value keeps its bytes. Raises InvalidJson: read_brief reads less."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as failure:
        raise InvalidJson(f"the body is not JSON: {failure}") from failure
    return msgspec.json.encode({**fields, "model": msgspec.Raw(msgspec.json.encode(model_id))})


def passed_on(
    headers: Iterable[tuple[str, str]], request_id: str, priority: PriorityClass = "normal"
) -> dict[str, str]:
    """The client's headers that a neuron gets, and ours; never its keys, nor what concerns only this connection.

    Raises InvalidRequest where one of them is none by HTTP's rules.
    """
    kept = {name: value for name, value in headers if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)}
    for name, value in kept.items():
        if _CONTROL.search(name) or _CONTROL.search(value):
            raise InvalidRequest(f"the header {name!a} has a control character in it")
    ours = {"x-request-id": request_id, "x-cortex-usage": "1", "x-cortex-priority": priority}
    return {**kept, **ours, "accept-encoding": "identity"}
