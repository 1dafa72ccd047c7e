// The page at /ui: asks the gateway once a second how the fleet is, shows it, and passes commands on.

import * as api from "./api.js";
import { byId, text } from "./dom.js";
import { colour, duration } from "./words.js";
import * as views from "./views.js";

const INTERVAL_MS = 1000;
const LONGEST_PAUSE_MS = 15_000;
const NOTICE_MS = 8000;
const DECISIONS = 30;

let fleet;
let misses = 0;
let timer;
let notice;
let gate = "open";

const commands = {
  load: (model) => carryOut("/fleet/models/load?wait=false", { model: model.id }),
  unload: (model) =>
    sure(`Unload ${model.id}? Its memory is freed; the next request for it loads it again.`, "Unload", () =>
      carryOut("/fleet/models/unload", { model: model.id }),
    ),
  pin: (model) => carryOut(`/fleet/models/${model.pinnedOn.length ? "unpin" : "pin"}`, { model: model.id }),
  explain: (model) => attempt(async () => views.explanation(await api.explain(model.id))),
  drain: (neuron) =>
    neuron.state === "draining"
      ? carryOut("/fleet/neurons/undrain", { neuron: neuron.name })
      : sure(`Drain ${neuron.name}? What runs there ends in peace; nothing new goes there.`, "Drain", () =>
          carryOut("/fleet/neurons/drain", { neuron: neuron.name }),
        ),
  gate: () =>
    gate === "draining"
      ? carryOut("/fleet/gateway/undrain", {})
      : sure("Drain this gateway? It answers new requests with 503 until it is undrained.", "Drain", () =>
          carryOut("/fleet/gateway/drain", {}),
        ),
};

async function refresh() {
  clearTimeout(timer);
  if (document.hidden || !api.key.get()) return;
  const begun = performance.now();
  try {
    const [answer, decided] = await Promise.all([api.status(), api.decisions(DECISIONS)]);
    fleet = answer;
    show(decided.data);
    misses = 0;
  } catch (failure) {
    if (failure.status === 401 || failure.status === 403) return signOut(failure.message);
    misses += 1;
    text(byId("lost"), `the gateway does not answer (${failure.message})`);
  }
  byId("lost").hidden = misses === 0;
  // A large fleet takes long to tell and to draw: no more than a tenth of the time goes there.
  const pause = Math.max(INTERVAL_MS * 2 ** misses, 9 * (performance.now() - begun));
  timer = setTimeout(refresh, Math.min(pause, LONGEST_PAUSE_MS));
}

function show(decided) {
  ({ gate } = fleet.gateway);
  text(byId("gate"), gate);
  byId("gate").className = `chip ${colour(gate)}`;
  const workers = fleet.gateway.workers > 1 ? `, ${fleet.gateway.workers} workers` : "";
  text(byId("about"), `version ${fleet.gateway.version}, up ${duration(fleet.gateway.uptime_s)}${workers}`);
  text(byId("gate-switch"), gate === "draining" ? "Undrain gateway" : "Drain gateway");
  views.figures(fleet);
  showChosen();
  views.requests(fleet.requests);
  views.decisions(decided);
  signedIn(true);
}

function showChosen() {
  views.neurons(fleet.neurons, commands);
  views.models(fleet, commands);
}

function signedIn(yes) {
  byId("sign-in").hidden = yes;
  for (const id of ["fleet", "gate", "gate-switch", "sign-out"]) byId(id).hidden = !yes;
}

function signOut(problem = "") {
  api.key.forget();
  clearTimeout(timer);
  text(byId("about"), "");
  byId("lost").hidden = true;
  text(byId("sign-in-problem"), problem);
  signedIn(false);
  byId("key").focus();
}

function carryOut(path, body) {
  return attempt(async () => {
    tell((await api.command(path, body)).message);
    await refresh();
  });
}

async function attempt(action) {
  try {
    await action();
  } catch (failure) {
    if (failure.status === 401) signOut(failure.message);
    else tell(failure.message, true);
  }
}

function sure(question, yes, action) {
  const dialog = byId("question");
  text(byId("question-text"), question);
  text(byId("question-yes"), yes);
  dialog.returnValue = "";
  dialog.onclose = () => dialog.returnValue === "yes" && action();
  dialog.showModal();
}

function tell(message, isBad = false) {
  clearTimeout(notice);
  const output = byId("notice");
  text(output, message);
  output.className = isBad ? "bad" : "good";
  output.hidden = false;
  notice = setTimeout(() => (output.hidden = true), NOTICE_MS);
}

byId("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  api.key.set(byId("key").value.trim());
  byId("key").value = "";
  text(byId("sign-in-problem"), "");
  refresh();
});
byId("filter").addEventListener("input", showChosen);
byId("sign-out").addEventListener("click", () => signOut());
byId("gate-switch").addEventListener("click", () => commands.gate());
document.addEventListener("visibilitychange", refresh);

if (api.key.get()) refresh();
else signOut();
