"""Which family's calls a model makes, by its chat template or by the catalogue's word. Called by: text_model."""

from __future__ import annotations

from cortex_contracts.inventory.fleet import ToolParser
from cortex_neuron.text.tool_calls.deepseek import DEEPSEEK_V3, DEEPSEEK_V31, OPEN_ALL
from cortex_neuron.text.tool_calls.hermes import HERMES
from cortex_neuron.text.tool_calls.hermes import OPEN as TOOL_CALL
from cortex_neuron.text.tool_calls.llama import LLAMA3_JSON, TAG
from cortex_neuron.text.tool_calls.mistral import ARGS, MISTRAL, MISTRAL_ARGS
from cortex_neuron.text.tool_calls.mistral import OPEN as TOOL_CALLS
from cortex_neuron.text.tool_calls.qwen_xml import QWEN_XML
from cortex_neuron.text.tool_calls.tool_format import ToolFormat

_ALL = (HERMES, QWEN_XML, LLAMA3_JSON, MISTRAL, MISTRAL_ARGS, DEEPSEEK_V3, DEEPSEEK_V31)
_BY_NAME = {each.name: each for each in _ALL}


def by_name(name: ToolParser) -> ToolFormat:
    """The format of that name."""
    return _BY_NAME[name]


def found(template: str) -> ToolFormat | None:
    """The format that the template writes calls of the past in; None where it writes none that is known."""
    if OPEN_ALL in template:
        return DEEPSEEK_V3 if "```json" in template else DEEPSEEK_V31
    if TOOL_CALLS in template:
        return MISTRAL_ARGS if ARGS in template else MISTRAL
    if TOOL_CALL in template:
        return QWEN_XML if "<function=" in template else HERMES
    if TAG in template or ("<|start_header_id|>" in template and '"parameters"' in template):
        return LLAMA3_JSON
    return None
