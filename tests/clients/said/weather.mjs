// What the sessions in JavaScript say: the same as weather.py, which tells how a session ends.

import process from "node:process";

export const URL = process.env.CORTEX_URL;
export const MODEL = process.env.CORTEX_MODEL;
export const TOLD = process.env.CORTEX_TOLD;
export const KEY = "unused";

export const CITIES = ["Oslo", "Zürich"];
export const QUESTION = "What is the weather in Zürich?";
export const RESULT = "It rains in Zürich, at 7 degrees.";
export const DESCRIPTION = "The weather in a city.";
export const SCHEMA = {
  type: "object",
  properties: { city: { type: "string", enum: CITIES } },
  required: ["city"],
  additionalProperties: false,
};

export function toldToSay(text) {
  return JSON.stringify({ reply: text, tokens_per_step: 4 });
}

export function toldToCall(tool, args) {
  const call = JSON.stringify({ name: tool, arguments: args });
  return toldToSay(`Let me see.\n<tool_call>\n${call}\n</tool_call>`);
}

// Ends the session here: this cannot be tried, and why.
export function skip(reason) {
  console.log(reason);
  process.exit(77);
}
