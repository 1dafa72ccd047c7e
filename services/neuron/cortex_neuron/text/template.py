"""A model's chat template: messages in, the prompt's text out.

Owns: the jinja environment, which is the one transformers gives templates (sandboxed, trimmed blocks, its filters
and functions). Does not own: tokens. Called by: text_model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cortex_contracts.wire.errors import TemplateRenderFailed, UnsupportedParameter


class ChatTemplate:
    """Rendered off the event loop: a template may loop over a megabyte of text."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            self._takes_tools = "tools" in jinja2.meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateError as failure:
            raise TemplateRenderFailed(f"the model's chat template cannot be compiled: {failure}") from failure

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]
    ) -> str:
        """The prompt. Raises TemplateRenderFailed: a template that refuses is never worked round (case W4).

        Raises UnsupportedParameter for tools that the template would leave out.
        """
        if tools and not self._takes_tools:
            raise UnsupportedParameter("tools: this model's chat template has no place for tools", param="tools")
        variables: dict[str, Any] = {
            **self._special_tokens,
            "add_generation_prompt": True,
            **extra,
            "messages": list(messages),
            "tools": list(tools) or None,
            "documents": None,
        }
        try:
            return self._template.render(variables)
        except Exception as failure:  # a template is a program: it can fail of anything
            with_tools = " with tools" if tools else ""
            raise TemplateRenderFailed(f"the model's chat template failed{with_tools}: {failure}") from failure


class _GenerationTag(jinja2.ext.Extension):
    """{% generation %} marks the assistant's words for training; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012  jinja's own attribute

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja's own escapes <, > and & for HTML, which models have never seen
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
