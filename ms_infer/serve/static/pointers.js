// Pointers on the picture: drags are sent as they happen, paths when they are drawn, points as they are painted.

/** @import { Place, Pointer } from "./state.js" */
import { $, field } from "./dom.js";
import { canvas, requestDraw } from "./draw.js";
import { start } from "./play.js";
import { state } from "./state.js";
import { send } from "./wire.js";

/** @type {[number, string, number, number, number][]} */
let events = [];
let flushing = false;

/** @param {PointerEvent} event @returns {Place} */
function placeOf(event) {
  const box = canvas.getBoundingClientRect();
  const limit = (/** @type {number} */ value) => Math.min(Math.max(value, -0.5), 1.5);
  return { x: limit((event.clientX - box.left) / box.width), y: limit((event.clientY - box.top) / box.height) };
}

/** How far a drag reaches, in shares of the picture's height. */
const radius = () => Number(field("radius").value) / 100;

/** Tell the server what a pointer did. @param {Place & { number: number }} pointer @param {"down" | "move" | "up"} phase */
export function note(pointer, phase) {
  events.push([pointer.number, phase, performance.now(), pointer.x, pointer.y]);
  if (phase !== "move" || events.length > 60) return flush();
  if (!flushing) setTimeout(flush, 16);
  flushing = true;
}

function flush() {
  flushing = false;
  const leaving = events.splice(0);
  if (leaving.length) state.sent.set(send({ do: "pointers", events: leaving, radius: radius() }), leaving[0][2]);
  if (state.sent.size > 500) state.sent.clear();
}

/** Something is done to the picture: the stream goes on if it does not yet. */
export function began() {
  $("hint").classList.add("gone");
  if (["waiting", "stopped"].includes(state.mode)) start();
}

/** @param {PointerEvent} event */
function down(event) {
  if (!state.hello?.owner || event.button > 0) return;
  canvas.setPointerCapture(event.pointerId);
  state.cross.shown = false;
  const at = placeOf(event);
  /** @type {Pointer} */
  const pointer = { ...at, number: state.next++, tool: state.tool, points: [[at.x, at.y]], since: performance.now() };
  state.pointers.set(event.pointerId, pointer);
  if (pointer.tool === "drag") {
    began();
    note(pointer, "down");
  } else if (pointer.tool !== "path") paint(pointer);
  requestDraw();
}

/** @param {PointerEvent} event */
function move(event) {
  const pointer = state.pointers.get(event.pointerId);
  if (!pointer) return;
  Object.assign(pointer, placeOf(event));
  const [x, y] = pointer.points[pointer.points.length - 1];
  const apart = Math.hypot(pointer.x - x, pointer.y - y);
  if (pointer.tool === "drag") note(pointer, "move");
  else if (apart > (pointer.tool === "path" ? 0.012 : 0.06) && pointer.points.length < 256) {
    pointer.points.push([pointer.x, pointer.y]);
    if (pointer.tool !== "path") paint(pointer);
  }
  requestDraw();
}

/** @param {PointerEvent} event */
function up(event) {
  const pointer = state.pointers.get(event.pointerId);
  state.pointers.delete(event.pointerId);
  if (pointer?.tool === "drag") note(pointer, "up");
  if (pointer?.tool === "path" && pointer.points.length > 1) {
    began();
    const seconds = Math.min(Math.max((performance.now() - pointer.since) / 1000, 0.8), 20);
    send({ do: "path", points: pointer.points, seconds, radius: radius() });
  }
  requestDraw();
}

/** @param {Pointer} pointer */
function paint(pointer) {
  const [x, y] = pointer.points[pointer.points.length - 1];
  send({ do: pointer.tool, points: [[x, y]] });
  state.placed.push({ x, y, kind: pointer.tool === "static" ? "static" : "drag" });
}

export function wirePointers() {
  canvas.addEventListener("pointerdown", down);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
}
