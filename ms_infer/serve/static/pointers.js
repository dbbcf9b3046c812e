// Pointers on the picture: drags are sent as they happen, paths when they are drawn, points as they are painted.

/** @import { Pair, Place, Pointer } from "./state.js" */
import { carryFrom, carryTo, gesture } from "./camera.js";
import { canvas, requestDraw } from "./draw.js";
import { caughtAt, radius, shifted, standing } from "./hand.js";
import { did } from "./history.js";
import { addPlan, retrace } from "./plans.js";
import { began } from "./play.js";
import { live, state } from "./state.js";
import { correct, hoverThing, inside, pickThing, setThing, thingAt } from "./thing.js";
import { say } from "./words.js";
import { send } from "./wire.js";

const CLICK = 0.012; // of the picture: less movement is a click
const MOST = 200; // corners of a path
const TOGETHER_MS = 200; // two fingers that come within this time move the camera

/** @type {[number, string, number, number, number][]} */
let events = [];
let flushing = false;
/** @type {Pair[] | undefined} points of the thing that the next press takes along */
let taken;

/** @param {PointerEvent} event @returns {Place} */
function placeOf(event) {
  const box = canvas.getBoundingClientRect();
  const limit = (/** @type {number} */ value) => Math.min(Math.max(value, -0.5), 1.5);
  return { x: limit((event.clientX - box.left) / box.width), y: limit((event.clientY - box.top) / box.height) };
}

/** Tell the server what a pointer did. @param {Place & { number: number }} pointer @param {"down" | "move" | "up"} phase */
export function note(pointer, phase, time = performance.now()) {
  events.push([pointer.number, phase, time, pointer.x, pointer.y]);
  if (phase !== "move" || events.length > 60) return flush();
  if (!flushing) setTimeout(flush, 16);
  flushing = true;
}

function flush() {
  flushing = false;
  const leaving = events.splice(0);
  if (leaving.length) state.sent.set(send({ do: "pointers", events: leaving, radius: radius(), thing: taken }), leaving[0][2]);
  taken = undefined;
  if (state.sent.size > 500) state.sent.clear();
}

/** @param {PointerEvent} event */
function down(event) {
  if (!state.hello?.owner || state.mode === "lost" || event.button > 0) return;
  canvas.setPointerCapture(event.pointerId);
  state.cross.shown = false;
  const at = placeOf(event), now = performance.now();
  if (secondFinger(event, at, now)) return;
  const tool = toolOf(event);
  /** @type {Pointer} */
  const pointer = { ...at, start: at, number: state.next++, tool, points: [[at.x, at.y]], since: now, thing: null,
    hold: "waits", moves: [], caught: tool === "drag" ? caughtAt(at) : [], row: null };
  state.pointers.set(event.pointerId, pointer);
  if (tool === "thing") takeThing(pointer);
  if (tool === "drag") carryOn(Object.assign(pointer, { hold: "ready" }), true);
  if (tool === "static" || tool === "brush") place(pointer);
  if (tool === "camera") carryFrom([at]);
  document.body.classList.toggle("gripping", tool === "thing" || tool === "drag");
  requestDraw();
}

/** @param {PointerEvent} event @returns {Pointer["tool"]} */
function toolOf(event) {
  if (event.altKey) return "camera";
  if (state.thing?.picked && (event.shiftKey || event.ctrlKey)) return event.shiftKey ? "more" : "less";
  return (state.thing?.picked && state.correcting) || state.tool;
}

/** Whether this is the second of two fingers that came together. @param {PointerEvent} event @param {Place} at @param {number} now */
function secondFinger(event, at, now) {
  const [first] = state.pointers.values();
  if (event.pointerType !== "touch" || !first) return gesture.active;
  if (gesture.active) return true;
  const still = Math.hypot(first.x - first.start.x, first.y - first.start.y) < CLICK;
  if (state.pointers.size > 1 || now - first.since > TOGETHER_MS || !still) return false;
  if (first.hold === "sent") note(first, "up");
  first.tool = "camera";
  first.thing = null;
  state.pointers.set(event.pointerId, { ...first, ...at, start: at, number: state.next++ });
  carryFrom([...state.pointers.values()]);
  return true;
}

/** What is under the pointer comes along, as soon as it is known. @param {Pointer} pointer */
async function takeThing(pointer) {
  const thing = await thingAt(pointer.start);
  if (pointer.hold !== "waits" || pointer.tool !== "thing") return;
  if (!thing) {
    pointer.caught = caughtAt(pointer.start);
    say("nothing");
  }
  pointer.thing = thing;
  pointer.hold = "ready";
  if ([...state.pointers.values()].includes(pointer)) carryOn(pointer);
  else lifted(pointer);
  requestDraw();
}

/** @param {Pointer} pointer */
const isClick = ({ points, start }) => points.every(([x, y]) => Math.hypot(x - start.x, y - start.y) < CLICK);

/**
 * Send the press and what came after it, once it is more than a click. While paused nothing is sent: it becomes a path.
 * @param {Pointer} pointer
 */
function carryOn(pointer, atOnce = false) {
  if (pointer.hold === "waits" || (pointer.hold === "ready" && !atOnce && isClick(pointer))) return;
  if (pointer.hold === "ready" && state.mode === "paused") return;
  if (pointer.hold === "ready") grip(pointer);
  for (const [time, x, y] of pointer.moves.splice(0)) note({ number: pointer.number, x, y }, "move", time);
}

/** The server takes hold. @param {Pointer} pointer */
function grip(pointer) {
  pointer.hold = "sent";
  began();
  flush();
  taken = pointer.thing?.points;
  note({ number: pointer.number, ...pointer.start }, "down", pointer.since);
}

/** @param {PointerEvent} event */
function move(event) {
  const pointer = state.pointers.get(event.pointerId);
  const at = placeOf(event);
  if (!pointer) return hover(event, at);
  if (event.pointerType === "mouse" && event.buttons === 0) return up(event); // the release was elsewhere
  Object.assign(pointer, at);
  const [x, y] = pointer.points[pointer.points.length - 1];
  const apart = Math.hypot(at.x - x, at.y - y);
  if (pointer.tool === "camera") carryTo([...state.pointers.values()].filter((one) => one.tool === "camera"));
  else if (pointer.tool === "drag" || pointer.tool === "thing") {
    pointer.points.push([at.x, at.y]);
    pointer.moves.push([performance.now(), at.x, at.y]);
    carryOn(pointer);
  } else if (apart > (pointer.tool === "path" ? 0.012 : 0.05) && pointer.points.length < 256) {
    pointer.points.push([at.x, at.y]);
    if (pointer.tool === "static" || pointer.tool === "brush") place(pointer);
  }
  requestDraw();
}

/** @param {PointerEvent} event @param {Place} at */
function hover(event, at) {
  state.hover = event.pointerType === "mouse" ? at : null;
  if (state.hover) hoverThing(at);
  requestDraw();
}

/** @param {PointerEvent} event */
function up(event) {
  const pointer = state.pointers.get(event.pointerId);
  if (!pointer) return;
  state.pointers.delete(event.pointerId);
  if (!state.pointers.size) document.body.classList.remove("gripping");
  if (pointer.tool === "camera") carryFrom([...state.pointers.values()].filter((one) => one.tool === "camera"));
  if (event.type === "pointerup" || pointer.hold === "sent") lifted(pointer);
  if (pointer.tool === "path" && pointer.points.length > 1) drawn(pointer);
  if (pointer.tool === "more" || pointer.tool === "less") correct(pointer.tool, pointer.points);
  requestDraw();
}

/** What a press comes to when it ends: a drag, a path to be played later, or a click. @param {Pointer} pointer */
function lifted(pointer) {
  carryOn(pointer);
  if (pointer.hold === "sent") letGo(pointer);
  else if (pointer.hold === "ready" && !isClick(pointer)) drawn(pointer);
  else if (pointer.hold === "ready" && pointer.tool === "thing") pickThing();
}

/** @param {Pointer} pointer */
function letGo(pointer) {
  note(pointer, "up");
  const { thing, start: from } = pointer, to = { x: pointer.x, y: pointer.y };
  if (thing) setThing(thing.picked ? shifted(thing, to.x - from.x, to.y - from.y) : null);
  const reach = radius();
  const there = /** @type {Pair[]} */ ([[from.x, from.y], [to.x, to.y]]);
  const took = thing?.points ?? standing(from, pointer.caught);
  const away = took?.map(([x, y]) => /** @type {Pair} */ ([x + to.x - from.x, y + to.y - from.y]));
  did({ undo: () => retrace(there, reach, took), redo: () => retrace([...there].reverse(), reach, away) });
}

/** @param {Pointer} pointer a path that is drawn */
function drawn(pointer) {
  const seconds = Math.round(Math.min(Math.max((performance.now() - pointer.since) / 1000, 0.8), 20) * 10) / 10;
  const thing = pointer.thing ?? (state.thing?.picked && inside(state.thing, pointer.start) ? state.thing : null);
  const step = Math.ceil(pointer.points.length / MOST);
  const points = pointer.points.filter((_, i) => i % step === 0 || i === pointer.points.length - 1);
  began();
  addPlan({ kind: "path", points, seconds, radius: radius(), thing: thing?.points });
  if (thing) setThing(thing.picked ? shifted(thing, pointer.x - pointer.start.x, pointer.y - pointer.start.y) : null);
}

/** @param {Pointer} pointer that paints points */
function place(pointer) {
  const point = pointer.points[pointer.points.length - 1];
  addPlan({ kind: pointer.tool === "static" ? "static" : "brush", points: [point], seconds: 0, radius: 0, thing: undefined });
}

export function wirePointers() {
  canvas.addEventListener("pointerdown", down);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", () => {
    state.hover = null;
    if (!live() || !state.thing?.picked) hoverThing(null);
    requestDraw();
  });
}
