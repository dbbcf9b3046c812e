// Draws the picture and what lies upon it. Solid marks are what the server applied, the hollow ring is the pointer.

/** @import { Pair, Place, Plan, Pointer, Thing } from "./state.js" */
import { $ } from "./dom.js";
import { appliedPlace, carriedThing, caughtAt, lag, radius, secondsLeft, shownPoints } from "./hand.js";
import { caught, dot, line, mark, outline, reach, ring, tag, tether } from "./marks.js";
import { state } from "./state.js";

export const canvas = /** @type {HTMLCanvasElement} */ ($("canvas"));
const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
const MANY = 12; // marks that would hide what they move
let asked = false;
let size = 5;

/** Draw before the next repaint. */
export function requestDraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(draw);
}

/** @param {Place} place @returns {Pair} */
const onCanvas = ({ x, y }) => [x * canvas.width, y * canvas.height];
/** @param {Pair[]} points */
const allOnCanvas = (points) => points.map(([x, y]) => onCanvas({ x, y }));

function draw() {
  asked = false;
  const { width, height } = canvas;
  size = Math.max(5, Math.min(width, height) / 75);
  pen.imageSmoothingQuality = "high";
  if (state.picture) pen.drawImage(state.picture, 0, 0, width, height);
  const free = !state.pointers.size;
  if (state.thing && (free || state.thing.picked) && ![...state.pointers.values()].some((one) => one.thing))
    drawThing(state.thing, state.thing.picked);
  if (state.marks && state.picture) drawPoints();
  if (free && state.hover && state.tool === "drag") drawReach(state.hover, caughtAt(state.hover));
  for (const plan of state.plans) drawPlan(plan);
  for (const pointer of state.pointers.values()) drawPointer(pointer);
  if (state.cross.shown) ring(pen, ...onCanvas(state.cross), size * 1.9, true);
}

function drawPoints() {
  const points = shownPoints();
  const many = points.filter(({ kind }) => kind === "drag").length > MANY;
  for (const point of points) {
    if (point.kind === "grid" && !state.grid) continue;
    if (point.kind === "path" && state.transfer) dot(pen, ...onCanvas(point), size * 0.35, "rgb(120 180 255)");
    else if (point.kind === "drag" && many) caught(pen, ...onCanvas(point), size * 0.8);
    else mark(pen, ...onCanvas(point), point.kind, size);
  }
}

/** @param {Thing} thing @param {boolean} firm */
function drawThing(thing, firm) {
  outline(pen, thing.outline.map(allOnCanvas), firm);
}

/** @param {Place} at @param {Place[]} along */
function drawReach(at, along) {
  reach(pen, ...onCanvas(at), radius() * canvas.height);
  for (const point of along) caught(pen, ...onCanvas(point), size);
}

/** What was drawn, with its time, until it is played. @param {Plan} plan */
function drawPlan(plan) {
  const places = allOnCanvas(plan.points);
  if (plan.kind !== "path") {
    for (const [x, y] of places) mark(pen, x, y, plan.kind === "static" ? "static" : "drag", size);
    return;
  }
  const [x, y] = places[places.length - 1];
  line(pen, places, size);
  mark(pen, ...places[0], "path", size);
  tag(pen, `${plan.back ? "↩ " : ""}${secondsLeft(plan).toFixed(1)} s`, x, y - size * 2.6, size);
}

/** @param {Pointer} pointer */
function drawPointer(pointer) {
  const finger = onCanvas(pointer);
  if (pointer.tool === "path" || (pointer.hold === "ready" && state.mode === "paused")) {
    line(pen, allOnCanvas(pointer.points), size);
    tag(pen, `${((performance.now() - pointer.since) / 1000).toFixed(1)} s`, finger[0], finger[1] - size * 4, size);
  }
  if (pointer.tool === "more" || pointer.tool === "less")
    for (const [x, y] of allOnCanvas(pointer.points)) mark(pen, x, y, pointer.tool === "more" ? "drag" : "static", size);
  const at = appliedPlace(pointer);
  const thing = carriedThing(pointer);
  if (thing) drawThing(thing, true);
  if (pointer.tool === "thing" && pointer.hold === "waits") reach(pen, ...finger, size * 4);
  if (!at && pointer.caught.length) drawReach(pointer.start, pointer.caught);
  if (pointer.hold === "sent") {
    tether(pen, finger, onCanvas(at ?? pointer.start));
    if (lag()) tag(pen, `${lag()} ms`, finger[0], finger[1] - size * 4.5, size);
  }
  ring(pen, ...finger, size * 1.9);
}

export function resize() {
  const { width, height } = canvas.getBoundingClientRect();
  const scale = Math.min(devicePixelRatio || 1, 2);
  if (width) Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
  requestDraw();
}
