// OpenAI's SDK for JavaScript, its own loop: runTools calls a function here until there is an answer, streamed.
//
// It is the told model: the prompt has it call the function, and what that gives decides the answer.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { DESCRIPTION, KEY, RESULT, SCHEMA, TOLD, URL, toldToCall, toldToSay } from "./weather.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, maxRetries: 0 });
const described = { name: "weather", description: DESCRIPTION, parameters: SCHEMA };
const asked = [];
const weather = ({ city }) => {
  asked.push(city);
  return toldToSay(RESULT);
};
const runner = client.chat.completions.runTools({
  model: TOLD,
  stream: true,
  messages: [{ role: "user", content: toldToCall("weather", { city: "Zürich" }) }],
  tools: [{ type: "function", function: { ...described, function: weather, parse: JSON.parse } }],
});
assert.equal(await runner.finalContent(), RESULT);
assert.deepEqual(asked, ["Zürich"]);
console.log(`weather(Zürich), then ${RESULT}`);
