"""LlamaIndex with OpenAILike: stream_chat_with_tools has the demo model call a tool, as tool_required forces it to.

The message that made the call and the tool's result go back as chat messages, and the answer is streamed.
"""

from __future__ import annotations

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from weather import KEY, MODEL, QUESTION, RESULT, URL, seen


def weather(city: str) -> str:
    """The weather in a city."""
    return RESULT


tool = FunctionTool.from_defaults(fn=weather)
llm = OpenAILike(
    api_base=f"{URL}/v1", api_key=KEY, model=MODEL, is_chat_model=True, is_function_calling_model=True,
    context_window=8192, max_tokens=128, max_retries=0,
)  # fmt: skip
history = [ChatMessage(role=MessageRole.USER, content=QUESTION)]

asking = list(llm.stream_chat_with_tools([tool], chat_history=history, tool_required=True))[-1]
(call,) = llm.get_tool_calls_from_response(asking)
assert call.tool_name == "weather", call
assert isinstance(call.tool_kwargs["city"], str), call

told = ChatMessage(role=MessageRole.TOOL, content=tool(**call.tool_kwargs).content)
told.additional_kwargs["tool_call_id"] = call.tool_id
pieces = list(llm.stream_chat([*history, asking.message, told]))
assert pieces[-1].message.content == "".join(piece.delta or "" for piece in pieces) != "", pieces[-1]
seen(f"weather({call.tool_kwargs['city']!r}), then {len(pieces)} pieces of an answer")
