// How figures and states are written.

const COLOURS = {
  up: "good", ready: "good", loaded: "good", open: "good", forward: "good", chosen: "good",
  unknown: "busy", activating: "busy", draining: "busy", loading: "busy", pending: "busy", recovering: "busy",
  possible: "busy", wait: "busy", load: "busy",
  down: "bad", stopping: "bad", failed: "bad", closed: "bad", reject: "bad", impossible: "quiet", unloaded: "quiet",
  sleeping: "quiet",
};

export const colour = (state) => COLOURS[state] ?? "quiet";
export const gigabytes = (mb) => `${(mb / 1024).toFixed(mb < 10_240 ? 1 : 0)} GB`;
export const clock = (at) => new Date(at).toLocaleTimeString([], { hour12: false });

export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}
