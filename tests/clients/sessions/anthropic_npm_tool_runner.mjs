// Anthropic's SDK for JavaScript, its own loop: the tool runner calls a function here until there is an answer.
//
// It is the told model: the prompt has it call the function, and what that gives decides the answer. The runner asks
// for a `thread` first, is refused, and goes on without.

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import { DESCRIPTION, KEY, RESULT, SCHEMA, TOLD, URL, toldToCall, toldToSay } from "./weather.mjs";

const client = new Anthropic({ baseURL: URL, apiKey: KEY, maxRetries: 0 });
const asked = [];
const weather = betaTool({
  name: "weather",
  description: DESCRIPTION,
  inputSchema: SCHEMA,
  run: ({ city }) => {
    asked.push(city);
    return toldToSay(RESULT);
  },
});
const runner = client.beta.messages.toolRunner({
  model: TOLD,
  max_tokens: 256,
  stream: true,
  messages: [{ role: "user", content: toldToCall("weather", { city: "Zürich" }) }],
  tools: [weather],
});
let last;
for await (const stream of runner) {
  last = await stream.finalMessage();
}
assert.deepEqual(asked, ["Zürich"]);
assert.equal(last.content[0].text, RESULT);
console.log(`weather(Zürich), then ${RESULT}`);
