// OpenAI's SDK for JavaScript, responses: the same turn as in openai_npm, by /v1/responses.
//
// The output of the first response goes into the input of the second, with the tool's result: the way that needs no
// state at the server. A fleet without the route is a skip.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { CITIES, DESCRIPTION, KEY, MODEL, QUESTION, RESULT, SCHEMA, URL, skip } from "./weather.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, maxRetries: 0 });
const tools = [{ type: "function", name: "weather", description: DESCRIPTION, parameters: SCHEMA, strict: true }];
const input = [{ role: "user", content: QUESTION }];

let first;
try {
  const named = { type: "function", name: "weather" };
  const asked = { model: MODEL, input, tools, tool_choice: named, temperature: 0, store: false };
  const stream = client.responses.stream(asked);
  first = await stream.finalResponse();
} catch (error) {
  if (error.code === "route_not_found") skip("the fleet has no /v1/responses");
  throw error;
}
assert.equal(first.status, "completed");
const calls = first.output.filter((item) => item.type === "function_call");
assert.equal(calls.length, 1);
assert.equal(calls[0].name, "weather");
const { city } = JSON.parse(calls[0].arguments);
assert.ok(CITIES.includes(city), calls[0].arguments);

input.push(...first.output, { type: "function_call_output", call_id: calls[0].call_id, output: RESULT });
const second = client.responses.stream({
  model: MODEL,
  input,
  tools,
  tool_choice: "none",
  temperature: 0,
  store: false,
});
const deltas = [];
second.on("response.output_text.delta", (event) => deltas.push(event.delta));
const answer = await second.finalResponse();
assert.equal(answer.output_text, deltas.join(""));
assert.ok(answer.output_text.length > 0);
assert.ok(answer.usage.output_tokens > 0);
console.log(`weather(${city}), then ${deltas.length} pieces of an answer`);
