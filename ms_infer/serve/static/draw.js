// Draws the picture and what lies upon it. Solid marks are what the server applied, the hollow ring is the pointer.

/** @import { Kind, Place } from "./state.js" */
import { $, field } from "./dom.js";
import { line, mark, ring } from "./marks.js";
import { KINDS, pointsAt } from "./protocol.js";
import { state } from "./state.js";

export const canvas = /** @type {HTMLCanvasElement} */ ($("canvas"));
const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
let asked = false;

/** Draw before the next repaint. */
export function requestDraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(draw);
}

function draw() {
  asked = false;
  const { width, height } = canvas;
  const size = Math.max(5, Math.min(width, height) / 75);
  pen.imageSmoothingQuality = "high";
  if (state.picture) pen.drawImage(state.picture, 0, 0, width, height);
  if (state.marks) for (const point of applied()) mark(pen, point.x * width, point.y * height, point.kind, size);
  for (const point of state.placed) mark(pen, point.x * width, point.y * height, point.kind, size);
  for (const pointer of state.pointers.values()) {
    if (pointer.tool === "path") line(pen, pointer.points.map(([x, y]) => [x * width, y * height]), size);
    ring(pen, pointer.x * width, pointer.y * height, size * 1.9);
  }
  if (state.cross.shown) ring(pen, state.cross.x * width, state.cross.y * height, size * 1.9, true);
}

/** Points of the frame that is shown, the most important last. @returns {(Place & { kind: Kind })[]} */
function applied() {
  const ack = state.frame && state.acks.get(state.frame.chunk);
  if (!state.frame || !ack) return state.frame ? [] : preview();
  const points = pointsAt(ack, state.frame.index).filter((point) => state.grid || point.kind !== "grid");
  return points.sort((a, b) => KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind));
}

/** The grid before the first frame. @returns {(Place & { kind: Kind })[]} */
function preview() {
  const side = state.grid ? Number(field("density").value) : 0;
  return Array.from({ length: side * side }, (_, i) => ({
    x: ((i % side) + 0.5) / side,
    y: (Math.floor(i / side) + 0.5) / side,
    kind: "grid",
  }));
}

export function resize() {
  const { width, height } = canvas.getBoundingClientRect();
  const scale = Math.min(devicePixelRatio || 1, 2);
  if (width) Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
  requestDraw();
}
