// The gateway's operator API under /fleet, and the admin key it asks for.
// The key stays in this tab: session storage is gone when the tab is closed, and no other site can read it.

const STORED = "cortex-admin-key";
const TIMEOUT_MS = 15_000;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(STORED),
  set: (value) => sessionStorage.setItem(STORED, value),
  forget: () => sessionStorage.removeItem(STORED),
};

export const status = () => ask("/fleet/status");
export const decisions = (limit) => ask(`/fleet/decisions?limit=${limit}`);
export const explain = (model) => ask(`/fleet/explain?model=${encodeURIComponent(model)}`);
export const command = (path, body) => ask(path, { method: "POST", body: JSON.stringify(body) });

// The answer's JSON. Throws Refused with the gateway's words, or TypeError and TimeoutError where it does not answer.
async function ask(path, options = {}) {
  const headers = { authorization: `Bearer ${key.get() ?? ""}`, "content-type": "application/json" };
  const answer = await fetch(path, { ...options, headers, signal: AbortSignal.timeout(TIMEOUT_MS) });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, body.error?.message ?? `the gateway answered ${answer.status}`);
  return body;
}
