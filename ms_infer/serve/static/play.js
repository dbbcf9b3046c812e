// Start, stop, pause; which state is told, and what can be pressed in it.

/** @import { Mode } from "./state.js" */
/** @import { StateName } from "./words.js" */
import { $, all, button, field } from "./dom.js";
import { requestDraw } from "./draw.js";
import { canRedo, canUndo, forgetHistory } from "./history.js";
import { state, live } from "./state.js";
import { say, tellState } from "./words.js";
import { send } from "./wire.js";

const PLAY = "M4 2l10 6-10 6z", STOP = "M3 3h10v10H3z";

/** @param {Mode} mode */
export function setMode(mode) {
  state.mode = mode;
  if (mode !== "running") Object.assign(state, { latencies: [], slow: false });
  if (mode !== "running") state.sent.clear();
  refresh();
}

/** No stream: say why. @param {StateName} name @param {Record<string, string | number>} [parts] */
export function setLost(name, parts) {
  setMode("lost");
  tellState(name, "", parts);
}

/** Say how things are, and enable what can work. */
export function refresh() {
  const { hello, mode } = state;
  document.body.dataset.mode = mode;
  document.body.dataset.tool = state.tool;
  if (mode !== "lost") tellState(...described());
  $("status").title = hello ? `${hello.model}, engine ${hello.engine}` : "";
  $("play-icon").setAttribute("d", live() ? STOP : PLAY);
  label("play", live() ? "Stop" : "Start");
  label("pause", mode === "paused" ? "Resume" : "Pause");
  $("badge").hidden = !["paused", "stopped"].includes(mode);
  $("badge").textContent = mode === "paused" ? "Paused" : "Stopped";
  $("taping").hidden = !state.recording;
  $("take").hidden = mode === "lost" || hello?.owner !== false || !state.free;
  allow();
  requestDraw();
}

/** @returns {[StateName, string]} */
function described() {
  const { hello, mode } = state;
  const about = hello ? ` · ${hello.model} ${hello.width}×${hello.height}` : "";
  if (!hello?.owner) return state.free ? ["free", ""] : ["watching", about];
  if (mode === "waiting") return ["ready", about];
  if (mode === "paused") return ["paused", ""];
  if (mode === "stopped") return ["stopped", about];
  if (state.recording) return ["recording", ""];
  if (state.slow) return ["slow", ""];
  return [state.resting ? "resting" : "running", state.resting ? "" : about];
}

/** @param {string} id @param {string} text */
function label(id, text) {
  const shown = /** @type {HTMLElement} */ ($(id).querySelector("span"));
  if (shown.textContent !== text) shown.textContent = text;
}

/** Nothing is enabled that cannot work yet. */
export function allow() {
  const owner = Boolean(state.hello?.owner) && state.mode !== "lost";
  for (const one of all("#panel input, #panel button, [data-tool]")) setDisabled(one, !owner);
  const able = {
    play: true, pause: live(), record: live(), undo: canUndo(), redo: canRedo(), fork: live(), save: live(),
    clear: live() || state.plans.length > 0,
  };
  for (const [id, can] of Object.entries(able)) setDisabled($(id), !(owner && can));
  button("link").disabled = !state.hello || state.mode === "lost";
}

/** @param {HTMLElement} element @param {boolean} disabled */
function setDisabled(element, disabled) {
  const one = /** @type {HTMLButtonElement | HTMLInputElement} */ (element);
  if (one.disabled !== disabled) one.disabled = disabled;
}

/** What a start needs besides its picture. */
export const settings = () => ({ seed: Number(field("seed").value) || 0, prompt: field("text").value });

export function start() {
  sendPlans();
  send({ do: "start", ...settings() });
}

export const toggle = () => void (live() ? send({ do: "stop" }) : start());

export function pause() {
  if (!live()) return;
  if (state.mode === "paused") sendPlans();
  send({ do: state.mode === "paused" ? "resume" : "pause" });
}

/** Send what was drawn while nothing was played: it goes together. */
export function sendPlans() {
  for (const plan of state.plans) if (!plan.sent) plan.sent = sendPlan(plan);
}

/** @param {import("./state.js").Plan} plan */
export function sendPlan({ kind, points, seconds, radius, thing }) {
  return send(kind === "path" ? { do: kind, points, seconds, radius, thing } : { do: kind, points });
}

/** Something is done to the picture: the stream goes on if it does not yet. */
export function began() {
  $("hint").classList.add("gone");
  if (["waiting", "stopped"].includes(state.mode)) start();
}

/** Away with points and paths, back to the picture. */
export function clear() {
  const playing = live();
  state.plans = [];
  state.thing = null;
  forgetHistory();
  send({ do: playing ? "reset" : "clear" });
  if (playing) say("cleared");
  refresh();
}
