// Shapes on the picture, in pixels of the canvas.

/** @import { Kind, Pair } from "./state.js" */

/** @typedef {CanvasRenderingContext2D} Pen */

/** @type {Record<string, string>} */
export const COLOURS = { drag: "rgb(40 200 80)", static: "rgb(230 50 50)", path: "rgb(60 120 255)" };
const DARK = "rgb(0 0 0 / 55%)";
const DIAMOND = [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]];

/** @param {Pen} pen @param {number} x @param {number} y @param {number} radius @param {string} colour */
export function dot(pen, x, y, radius, colour) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  pen.fillStyle = colour;
  pen.fill();
}

/** @param {Pen} pen @param {number} x @param {number} y @param {Kind} kind @param {number} size */
export function mark(pen, x, y, kind, size) {
  if (kind === "grid") return dot(pen, x, y, size * 0.28, "rgb(255 255 255 / 60%)");
  pen.beginPath();
  if (kind === "static") pen.rect(x - size * 0.85, y - size * 0.85, size * 1.7, size * 1.7);
  else if (kind === "path") for (const [dx, dy] of DIAMOND) pen.lineTo(x + dx * size, y + dy * size);
  else pen.arc(x, y, size * 0.8, 0, 7);
  pen.closePath();
  pen.fillStyle = COLOURS[kind];
  pen.fill();
  pen.lineWidth = Math.max(1.5, size / 5);
  pen.strokeStyle = "white";
  pen.stroke();
}

/** White on dark, so that it is seen on every picture. @param {Pen} pen @param {number} width */
function stroke(pen, width, colour = "white") {
  for (const [style, wide] of /** @type {[string, number][]} */ ([[DARK, width + 2], [colour, width]])) {
    Object.assign(pen, { strokeStyle: style, lineWidth: wide, lineCap: "round", lineJoin: "round" });
    pen.stroke();
  }
}

/** A hollow ring, or a cross in one. @param {Pen} pen @param {number} x @param {number} y @param {number} radius */
export function ring(pen, x, y, radius, cross = false) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  if (cross) for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    pen.moveTo(x + dx * radius * 0.4, y + dy * radius * 0.4);
    pen.lineTo(x + dx * radius, y + dy * radius);
  }
  stroke(pen, 2);
}

/** How far the circle reaches. @param {Pen} pen @param {number} x @param {number} y @param {number} radius */
export function reach(pen, x, y, radius) {
  pen.save();
  pen.setLineDash([7, 6]);
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  pen.fillStyle = "rgb(255 255 255 / 10%)";
  pen.fill();
  stroke(pen, 1.5);
  pen.restore();
}

/** A point that comes along. @param {Pen} pen @param {number} x @param {number} y @param {number} size */
export function caught(pen, x, y, size) {
  dot(pen, x, y, size * 0.62, DARK);
  dot(pen, x, y, size * 0.48, COLOURS.drag);
}

/** The outline of a thing. @param {Pen} pen @param {Pair[][]} lines in pixels @param {boolean} firm */
export function outline(pen, lines, firm) {
  pen.save();
  pen.beginPath();
  for (const line of lines) {
    for (const [i, [x, y]] of line.entries()) i ? pen.lineTo(x, y) : pen.moveTo(x, y);
    pen.closePath();
  }
  pen.fillStyle = firm ? "rgb(60 220 110 / 22%)" : "rgb(255 255 255 / 14%)";
  pen.fill("evenodd");
  if (!firm) pen.setLineDash([6, 5]);
  stroke(pen, 2, firm ? "rgb(120 255 160)" : "white");
  pen.restore();
}

/** From the finger to where the picture has it. @param {Pen} pen @param {Pair} from @param {Pair} to */
export function tether(pen, from, to) {
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  stroke(pen, 2);
}

/** A drawn path. @param {Pen} pen @param {Pair[]} points in pixels @param {number} size */
export function line(pen, points, size) {
  for (const [colour, width] of /** @type {[string, number][]} */ ([["white", 0.8], [COLOURS.path, 0.5]])) {
    pen.beginPath();
    for (const [x, y] of points) pen.lineTo(x, y);
    Object.assign(pen, { strokeStyle: colour, lineWidth: size * width, lineCap: "round", lineJoin: "round" });
    pen.stroke();
  }
}

/** A word on the picture, within it. @param {Pen} pen @param {string} text @param {number} x @param {number} y @param {number} size */
export function tag(pen, text, x, y, size) {
  pen.font = `600 ${Math.round(size * 1.9)}px system-ui, sans-serif`;
  const wide = pen.measureText(text).width + size * 1.6, high = size * 2.7;
  const left = Math.min(Math.max(x - wide / 2, 2), pen.canvas.width - wide - 2);
  const top = Math.min(Math.max(y - high / 2, 2), pen.canvas.height - high - 2);
  pen.beginPath();
  pen.roundRect(left, top, wide, high, high / 2);
  pen.fillStyle = "rgb(18 20 24 / 78%)";
  pen.fill();
  Object.assign(pen, { fillStyle: "white", textAlign: "center", textBaseline: "middle" });
  pen.fillText(text, left + wide / 2, top + high / 2);
}
