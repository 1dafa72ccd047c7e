// Anthropic's SDK for JavaScript: the demo model is made to call a tool, streamed, and answers its result, streamed.
//
// The call is forced by tool_choice; the SDK's accumulator puts the message together, and it goes back as it is.

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { CITIES, DESCRIPTION, KEY, MODEL, QUESTION, RESULT, SCHEMA, URL } from "./weather.mjs";

const client = new Anthropic({ baseURL: URL, apiKey: KEY, maxRetries: 0 });
const tools = [{ name: "weather", description: DESCRIPTION, input_schema: SCHEMA }];
const messages = [{ role: "user", content: QUESTION }];

const named = { type: "tool", name: "weather" };
const first = client.messages.stream({ model: MODEL, max_tokens: 256, messages, tools, tool_choice: named });
const message = await first.finalMessage();
assert.equal(message.stop_reason, "tool_use");
const use = message.content.find((block) => block.type === "tool_use");
assert.equal(use.name, "weather");
assert.ok(CITIES.includes(use.input.city), JSON.stringify(use));

const result = { type: "tool_result", tool_use_id: use.id, content: RESULT };
messages.push({ role: "assistant", content: message.content }, { role: "user", content: [result] });
const second = client.messages.stream({ model: MODEL, max_tokens: 64, messages, tools, tool_choice: { type: "none" } });
const deltas = [];
second.on("text", (delta) => deltas.push(delta));
const answer = await second.finalText();
assert.equal(answer, deltas.join(""));
assert.ok(answer.length > 0);
console.log(`weather(${use.input.city}), then ${deltas.length} pieces of an answer`);
