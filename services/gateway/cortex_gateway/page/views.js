// What the gateway says of the fleet, as elements. Owns no state: each view is shown anew with every answer.

import { bar, button, byId, element, list, row, text } from "./dom.js";
import { clock, colour, duration, gigabytes } from "./words.js";

const MOST = 100; // rows of a fleet's neurons or models that are drawn at once

// Those whose names have what is typed in the filter, and no more than a page can bear.
function chosen(kind, all, namesOf) {
  const wanted = byId("filter").value.trim().toLowerCase();
  const found = all.filter((item) => namesOf(item).some((name) => name.toLowerCase().includes(wanted)));
  byId(`more-${kind}`).hidden = found.length <= MOST;
  text(byId(`more-${kind}`), `and ${found.length - MOST} more; type a part of a name above to find others`);
  return found.slice(0, MOST);
}

export function chip() {
  const root = element("span", "chip");
  const show = (word) => {
    text(root, word.replace("_", " "));
    root.className = `chip ${colour(word)}`;
  };
  return { root, show };
}

export function figures(fleet) {
  const loaded = fleet.models.filter((model) => model.status === "loaded").length;
  const up = fleet.neurons.filter((neuron) => neuron.reach === "up").length;
  const shown = [
    ["Neurons up", `${up} of ${fleet.neurons.length}`],
    ["Models loaded", `${loaded} of ${fleet.models.length}`],
    ["Requests under way", String(fleet.gateway.in_flight)],
    ["Waiting for a model", String(fleet.gateway.waiting)],
  ];
  list(byId("figures"), shown, ([name]) => name, () => {
    const [value, name] = [element("b"), element("span", "quiet")];
    const show = ([itsName, itsValue]) => (text(name, itsName), text(value, itsValue));
    return { root: element("div", "figure", value, name), show };
  });
}

export function neurons(all, commands) {
  const shown = chosen("neurons", all, (neuron) => [neuron.name]);
  list(byId("neurons"), shown, (neuron) => neuron.name, () => neuronCard(commands));
}

function neuronCard(commands) {
  const [name, state, about, devices] = [element("strong"), chip(), element("div", "quiet"), element("div")];
  let shown;
  const drain = button("", () => commands.drain(shown));
  const show = (neuron) => {
    shown = neuron;
    const answers = neuron.reach === "up";
    text(name, neuron.name);
    state.show(answers ? (neuron.state ?? "unknown") : neuron.reach);
    const strikes = neuron.strikes ? `, ${neuron.strikes} polls missed` : "";
    text(about, `${neuron.url}${neuron.version ? `, version ${neuron.version}` : ""}${strikes}`);
    text(drain, neuron.state === "draining" ? "Undrain" : "Drain");
    drain.disabled = !answers;
    list(devices, answers ? neuron.devices : [], (device) => device.index, deviceLine);
  };
  return { root: element("article", "neuron", element("div", "", name, state.root, drain), about, devices), show };
}

function deviceLine() {
  const [name, memory, used] = [element("span"), element("span", "quiet"), bar()];
  const show = (device) => {
    const usedMb = device.vram_total_mb - device.vram_free_mb;
    const measured = [
      device.utilization_pct === null ? "" : `${device.utilization_pct} %`,
      device.temp_c === null ? "" : `${device.temp_c} °C`,
    ];
    const filled = `${gigabytes(usedMb)} of ${gigabytes(device.vram_total_mb)}`;
    text(name, `${device.index}: ${device.name}`);
    text(memory, [...measured, filled].filter(Boolean).join(" · "));
    used.show(usedMb / Math.max(1, device.vram_total_mb), `memory of device ${device.index}: ${filled}`);
  };
  return { root: element("div", "device", element("div", "", name, memory), used.root), show };
}

export function models(fleet, commands) {
  const pins = (id) => fleet.neurons.filter((neuron) => neuron.models.some((model) => model.id === id && model.pinned));
  const shown = chosen("models", fleet.models, (model) => [model.id, ...model.aliases]);
  const all = shown.map((model) => ({ ...model, pinnedOn: pins(model.id).map((neuron) => neuron.name) }));
  list(byId("models"), all, (model) => model.id, () => modelRow(commands));
}

function modelRow(commands) {
  const state = chip();
  const loading = bar("progress");
  let shown;
  const load = button("Load", () => commands.load(shown));
  const unload = button("Unload", () => commands.unload(shown));
  const pin = button("", () => commands.pin(shown));
  const explain = button("Explain", () => commands.explain(shown));
  const made = row(["", "", "", "number", "commands"], ([name, status, where, inFlight], model) => {
    shown = model;
    text(name, model.aliases.length ? `${model.id} (${model.aliases.join(", ")})` : model.id);
    state.show(model.status);
    if (!status.firstChild) status.append(state.root, loading.root);
    loading.root.hidden = !model.progress;
    if (model.progress) loading.show(model.progress.fraction, `loading ${model.id}: ${model.progress.phase}`);
    text(where, model.locations.map((location) => place(model, location)).join(", "));
    text(inFlight, String(model.locations.reduce((sum, place) => sum + place.in_flight, 0)));
    load.hidden = !["unloaded", "sleeping", "failed"].includes(model.status);
    unload.hidden = !["loaded", "sleeping"].includes(model.status);
    pin.hidden = model.status !== "loaded";
    text(pin, model.pinnedOn.length ? "Unpin" : "Pin");
  });
  made.root.lastChild.append(load, unload, pin, explain);
  return made;
}

function place(model, { neuron, status }) {
  const aside = [status === model.status ? "" : status, model.pinnedOn.includes(neuron) ? "pinned" : ""].filter(Boolean);
  return aside.length ? `${neuron} (${aside.join(", ")})` : neuron;
}

export function requests(all) {
  const columns = ["", "", "", "", "", "number", "number"];
  byId("no-requests").hidden = all.length > 0;
  list(byId("requests"), all, (request) => request.request_id, () =>
    row(columns, ([id, key, model, neuron, stage, first, age], request) => {
      text(id, request.request_id);
      text(key, request.key);
      text(model, request.model);
      text(neuron, request.neuron);
      text(stage, request.stage);
      text(first, request.ttft_s === null ? "" : duration(request.ttft_s));
      text(age, duration(request.age_s));
    }),
  );
}

export function decisions(all) {
  byId("no-decisions").hidden = all.length > 0;
  const keyOf = (decision) => `${decision.decided_at} ${decision.request_id} ${decision.decision} ${decision.neuron}`;
  list(byId("decisions"), all, keyOf, () => {
    const kind = chip();
    return row(["", "", "", "", ""], ([when, model, what, neuron, why], decision) => {
      text(when, clock(decision.decided_at));
      text(model, decision.model);
      kind.show(decision.decision);
      if (!what.firstChild) what.append(kind.root);
      text(neuron, decision.neuron ?? "");
      const evicted = decision.evict.length ? ` (evicts ${decision.evict.join(", ")})` : "";
      text(why, decision.reason + evicted);
    });
  });
}

export function explanation(found) {
  text(byId("explanation-title"), `${found.model}: ${found.decision}${found.neuron ? ` on ${found.neuron}` : ""}`);
  text(byId("explanation-reason"), found.reason);
  list(byId("considered"), found.considered, (considered) => considered.neuron, () => {
    const verdict = chip();
    return row(["", "", ""], ([neuron, what, why], considered) => {
      text(neuron, considered.neuron);
      verdict.show(considered.verdict);
      if (!what.firstChild) what.append(verdict.root);
      const evicted = considered.evict.length ? ` (evicts ${considered.evict.join(", ")})` : "";
      text(why, considered.reason + evicted);
    });
  });
  byId("explanation").showModal();
}
