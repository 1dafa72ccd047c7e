// OpenAI's SDK for JavaScript, chat: the demo model is made to call a tool, streamed, and answers its result, streamed.
//
// The call is forced by naming the tool in tool_choice; the SDK's accumulator puts it together, and its message goes
// back as it is.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { CITIES, DESCRIPTION, KEY, MODEL, QUESTION, RESULT, SCHEMA, URL } from "./weather.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, maxRetries: 0 });
const tools = [{ type: "function", function: { name: "weather", description: DESCRIPTION, parameters: SCHEMA } }];
const messages = [{ role: "user", content: QUESTION }];

const named = { type: "function", function: { name: "weather" } };
const first = client.chat.completions.stream({ model: MODEL, messages, tools, tool_choice: named, temperature: 0 });
const message = await first.finalMessage();
assert.equal(message.tool_calls.length, 1);
const call = message.tool_calls[0];
assert.equal(call.function.name, "weather");
const { city } = JSON.parse(call.function.arguments);
assert.ok(CITIES.includes(city), call.function.arguments);

messages.push(message, { role: "tool", tool_call_id: call.id, content: RESULT });
const second = client.chat.completions.stream({
  model: MODEL,
  messages,
  tools,
  tool_choice: "none",
  temperature: 0,
  stream_options: { include_usage: true },
});
const deltas = [];
second.on("content", (delta) => deltas.push(delta));
const answer = await second.finalContent();
assert.equal(answer, deltas.join(""));
assert.ok(answer.length > 0);
assert.ok((await second.totalUsage()).completion_tokens > 0);
console.log(`weather(${city}), then ${deltas.length} pieces of an answer`);
