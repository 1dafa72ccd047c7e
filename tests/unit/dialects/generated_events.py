"""Event sequences as an engine may give them, generated; and what a client makes of each dialect's stream."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jiter
from hypothesis import strategies as st

from cortex_dialects.events import Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
REASONS = st.sampled_from(["stop", "length", "content_filter"])


@st.composite
def _calls(draw: st.DrawFn, index: int) -> list[Event]:
    """Some calls, each whole before the next begins, their arguments in any number of pieces."""
    events: list[Event] = []
    for number in range(draw(st.integers(1, 3))):
        arguments = json.dumps(draw(st.dictionaries(WORDS, WORDS | st.integers() | st.none(), max_size=3)))
        cuts = sorted(draw(st.lists(st.integers(0, len(arguments)), max_size=3)))
        name = draw(st.sampled_from(["weather", "f_2"]))
        events.append(ToolCallDelta(index, number, "", f"call_{index}_{number}", name))
        for start, end in zip([0, *cuts], [*cuts, len(arguments)], strict=True):
            events.append(ToolCallDelta(index, number, arguments[start:end]))
    return events


@st.composite
def choice_events(draw: st.DrawFn, index: int) -> list[Event]:
    """One choice: thoughts, then text, then calls, any of them missing; then its end."""
    events: list[Event] = [ReasoningDelta(index, words) for words in draw(st.lists(WORDS, max_size=3))]
    events += [TextDelta(index, words) for words in draw(st.lists(WORDS, max_size=4))]
    calls = draw(st.booleans())
    if calls:
        events += draw(_calls(index))
    stopped = draw(st.none() | st.just("STOP"))
    reason = "tool_calls" if calls else draw(REASONS)
    if calls and draw(st.booleans()):
        reason, last = "length", events.pop()
        events.append(replace(last, arguments=last.arguments[: draw(st.integers(0, len(last.arguments)))]))  # type: ignore[union-attr, type-var]
    return [*events, Finished(index, reason, stopped if reason == "stop" else None)]


@st.composite
def answers(draw: st.DrawFn, most_choices: int = 3) -> tuple[int, list[Event]]:
    """How many choices, and the events of all, interleaved in any way that keeps each one's order; then Usage."""
    queues = [draw(choice_events(index)) for index in range(draw(st.integers(1, most_choices)))]
    count, events = len(queues), []
    while queues:
        queue = draw(st.sampled_from(queues))
        events.append(queue.pop(0))
        if not queue:
            queues = [each for each in queues if each]
    tokens = draw(st.integers(0, 99))
    usage = Usage(draw(st.integers(1, 99)), tokens, draw(st.integers(0, 9)), draw(st.integers(0, tokens)))
    return count, [*events, usage]


def gathered_chat(chunks: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The choices that a client of OpenAI's puts together from a stream."""
    choices: list[dict[str, Any]] = [
        {"content": "", "reasoning": "", "calls": [], "reason": None} for _ in range(count)
    ]
    for chunk in chunks:
        for part in chunk["choices"]:
            choice, delta = choices[part["index"]], part["delta"]
            choice["content"] += delta.get("content") or ""
            choice["reasoning"] += delta.get("reasoning_content") or ""
            choice["reason"] = part["finish_reason"] or choice["reason"]
            for piece in delta.get("tool_calls", ()):
                if piece["index"] == len(choice["calls"]):
                    choice["calls"].append([piece["id"], piece["function"]["name"], ""])
                choice["calls"][piece["index"]][2] += piece["function"].get("arguments", "")
    return choices


def chat_choices(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of a document, as gathered_chat has them."""
    return [
        {
            "content": choice["message"]["content"] or "",
            "reasoning": choice["message"].get("reasoning_content", ""),
            "calls": [
                [call["id"], call["function"]["name"], call["function"]["arguments"]]
                for call in choice["message"].get("tool_calls", ())
            ],
            "reason": choice["finish_reason"],
        }
        for choice in document["choices"]
    ]


def gathered_message(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client of Anthropic's puts together from a stream."""
    message: dict[str, Any] = {}
    inputs: dict[int, str] = {}
    for event in events:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                _grow(message["content"][event["index"]], event["delta"], inputs, event["index"])
            case "message_delta":
                message |= event["delta"]
                message["usage"] = event["usage"]
    return message


def _grow(block: dict[str, Any], delta: dict[str, Any], inputs: dict[int, str], index: int) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] += delta["signature"]
        case "input_json_delta":
            inputs[index] = inputs.get(index, "") + delta["partial_json"]
            if inputs[index]:  # as the SDK has it after each piece
                block["input"] = jiter.from_json(inputs[index].encode(), partial_mode=True)


def gathered_response(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The response that a client puts together from the deltas of a stream, and not from what its end repeats."""
    response: dict[str, Any] = {}
    for event in events:
        match event["type"].removeprefix("response."):
            case "created":
                response = event["response"]
            case "output_item.added":
                response["output"].append(event["item"])
            case "content_part.added":
                response["output"][event["output_index"]]["content"].append(event["part"])
            case "output_text.delta" | "reasoning_text.delta":
                part = response["output"][event["output_index"]]["content"][event["content_index"]]
                part["text"] += event["delta"]
            case "function_call_arguments.delta":
                response["output"][event["output_index"]]["arguments"] += event["delta"]
            case "output_item.done":
                response["output"][event["output_index"]]["status"] = event["item"]["status"]
            case "completed" | "incomplete":
                response |= {**event["response"], "output": response["output"]}
    return response
