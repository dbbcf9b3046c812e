// The camera: carried over the picture by fingers or a wheel, or steered by its stick, which springs back.

/** @import { Place } from "./state.js" */
import { $, field } from "./dom.js";
import { canvas } from "./draw.js";
import { did } from "./history.js";
import { began } from "./play.js";
import { state } from "./state.js";
import { send } from "./wire.js";

/** @typedef {{ x: number, y: number, zoom: number, roll: number }} Move pictures, e-folds and radians */

const FULL = { x: 0.12, y: 0.12, zoom: 0.22, roll: 0.25 }; // a second of the stick, as the server has it
const WHEEL = 0.0015; // e-folds or radians of one step
const QUIET_MS = 400; // a wheel that rests so long was one gesture

const still = () => ({ x: 0, y: 0, zoom: 0, roll: 0 });
const keys = /** @type {(keyof Move)[]} */ (["x", "y", "zoom", "roll"]);

/** How the camera moves while a stick or a key is held: each -1..1. */
export const stick = still();
export const gesture = { active: false, sum: still() };
/** @type {Place[]} where the fingers were */
let fingers = [];
let waiting = still();
let leaving = false;
/** @type {number | undefined} */
let quiet;
let steered = 0; // when the stick was last changed
let ride = still(); // what the stick has moved

/** Move the camera by so much, as fast as it may go. @param {Move} by */
function carry(by) {
  for (const key of keys) waiting[key] += by[key];
  if (leaving) return;
  leaving = true;
  setTimeout(() => {
    leaving = false;
    const now = waiting;
    waiting = still();
    if (keys.some((key) => now[key])) send({ do: "carry", ...now });
  }, 30);
}

/** @param {Move} by */
function remember(by) {
  if (!keys.some((key) => Math.abs(by[key]) > 1e-4)) return;
  const back = { x: -by.x, y: -by.y, zoom: -by.zoom, roll: -by.roll };
  did({ undo: () => carry(back), redo: () => carry(by) });
}

/** Fingers are on the picture, or have left it: from here on they carry it. @param {Place[]} places */
export function carryFrom(places) {
  fingers = places.map(({ x, y }) => ({ x, y }));
  if (!gesture.active && places.length) gesture.sum = still();
  if (gesture.active && !places.length) remember(gesture.sum);
  gesture.active = places.length > 0;
  if (gesture.active) began();
}

/** The picture follows the fingers. @param {Place[]} places */
export function carryTo(places) {
  if (!places.length || places.length !== fingers.length) return carryFrom(places);
  const [a, b] = fingers, [c, d] = places;
  const from = middle(a, b ?? a), to = middle(c, d ?? c);
  const by = { x: from.x - to.x, y: from.y - to.y, zoom: 0, roll: 0 };
  if (b && d) {
    const wide = (state.hello?.width ?? 1) / (state.hello?.height ?? 1);
    const before = { x: (b.x - a.x) * wide, y: b.y - a.y }, now = { x: (d.x - c.x) * wide, y: d.y - c.y };
    by.zoom = Math.log(Math.max(Math.hypot(now.x, now.y), 0.02) / Math.max(Math.hypot(before.x, before.y), 0.02));
    const turn = Math.atan2(now.y, now.x) - Math.atan2(before.y, before.x);
    by.roll = -Math.atan2(Math.sin(turn), Math.cos(turn)); // the picture turns with the fingers: the camera against them
  }
  for (const key of keys) gesture.sum[key] += by[key];
  fingers = places.map(({ x, y }) => ({ x, y }));
  carry(by);
}

/** @param {Place} a @param {Place} b */
const middle = (a, b) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });

/** @param {WheelEvent} event */
function wheel(event) {
  if (!(event.ctrlKey || event.metaKey || event.shiftKey) || !state.hello?.owner || state.mode === "lost") return;
  event.preventDefault();
  const steps = (event.deltaY || event.deltaX) * (event.deltaMode ? 16 : 1);
  const by = { ...still(), [event.shiftKey ? "roll" : "zoom"]: (event.shiftKey ? 1 : -1) * steps * WHEEL };
  began();
  if (!quiet) gesture.sum = still();
  for (const key of keys) gesture.sum[key] += by[key];
  clearTimeout(quiet);
  quiet = setTimeout(() => {
    quiet = undefined;
    remember(gesture.sum);
  }, QUIET_MS);
  carry(by);
}

/** Hold the stick otherwise. @param {Partial<Move>} change each -1..1 */
export function steer(change) {
  const now = performance.now();
  for (const key of keys) ride[key] += (stick[key] * FULL[key] * (now - steered)) / 1000;
  steered = now;
  Object.assign(stick, change);
  const knob = /** @type {HTMLElement} */ ($("pad").firstElementChild);
  knob.style.translate = `${stick.x * 30}px ${stick.y * 30}px`;
  if (keys.some((key) => stick[key])) began();
  else {
    remember(ride);
    ride = still();
  }
  send({ do: "camera", ...stick });
}

/** Let the stick spring back. */
export function restStick() {
  if (keys.some((key) => stick[key])) steer(still());
}

export function wireCamera() {
  canvas.addEventListener("wheel", wheel, { passive: false });
  for (const id of ["zoom", "roll"]) {
    field(id).oninput = () => steer({ [id]: Number(field(id).value) });
    field(id).onchange = () => {
      field(id).value = "0"; // it springs back when let go
      steer({ [id]: 0 });
    };
  }
  const pad = $("pad");
  const follow = (/** @type {PointerEvent} */ event) => {
    if (!pad.hasPointerCapture(event.pointerId) || !state.hello?.owner) return;
    const box = pad.getBoundingClientRect();
    const limit = (/** @type {number} */ value) => Math.min(Math.max(value, -1), 1);
    steer({ x: limit((event.clientX - box.left - 46) / 40), y: limit((event.clientY - box.top - 46) / 40) });
  };
  pad.onpointerdown = (event) => {
    pad.setPointerCapture(event.pointerId);
    follow(event);
  };
  pad.onpointermove = follow;
  pad.onlostpointercapture = restStick;
}
