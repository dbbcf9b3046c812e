// Start, stop, pause, and the line that says how things are.

/** @import { Mode } from "./state.js" */
import { $, button, field } from "./dom.js";
import { requestDraw } from "./draw.js";
import { state } from "./state.js";
import { send } from "./wire.js";

const WORDS = { waiting: "Ready", running: "Live", paused: "Paused", stopped: "Stopped", lost: "Connecting" };

/** @param {Mode} mode @param {string} [text] */
export function setMode(mode, text) {
  const { hello } = state;
  state.mode = mode;
  document.body.dataset.state = mode;
  const about = hello ? ` · ${hello.model} ${hello.width}×${hello.height}${hello.owner ? "" : " · watching"}` : "";
  $("status").textContent = text || WORDS[mode] + (mode === "lost" ? "" : about);
  $("status").title = hello?.engine ?? "";
  $("play").textContent = mode === "running" || mode === "paused" ? "Stop" : "Start";
  $("pause").textContent = mode === "paused" ? "Resume" : "Pause";
  button("pause").disabled = !hello?.owner || !["running", "paused"].includes(mode);
  $("badge").hidden = !["paused", "stopped"].includes(mode);
  $("badge").textContent = WORDS[mode] ?? "";
  requestDraw();
}

/** What a start needs besides its picture. */
export const settings = () => ({ seed: Number(field("seed").value) || 0, prompt: field("text").value });

export const start = () => void send({ do: "start", ...settings() });
export const toggle = () => void (["running", "paused"].includes(state.mode) ? send({ do: "stop" }) : start());
export const pause = () => void send({ do: state.mode === "paused" ? "resume" : "pause" });
export const clear = () => void send({ do: "clear" });
export const reset = () => void send({ do: "reset" });
