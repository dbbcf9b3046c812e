// Shapes on the picture, in pixels of the canvas.

/** @import { Kind } from "./state.js" */

/** @type {Record<string, string>} */
export const COLOURS = { drag: "rgb(40 200 80)", static: "rgb(230 50 50)", path: "rgb(60 120 255)" };

/** @param {CanvasRenderingContext2D} pen @param {number} x @param {number} y @param {Kind} kind @param {number} size */
export function mark(pen, x, y, kind, size) {
  pen.beginPath();
  if (kind === "grid") {
    pen.arc(x, y, size * 0.28, 0, 7);
    pen.fillStyle = "rgb(255 255 255 / 60%)";
    return pen.fill();
  }
  if (kind === "static") pen.rect(x - size * 0.85, y - size * 0.85, size * 1.7, size * 1.7);
  else if (kind === "path") for (const [dx, dy] of [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]]) pen.lineTo(x + dx * size, y + dy * size);
  else pen.arc(x, y, size * 0.8, 0, 7);
  pen.closePath();
  pen.fillStyle = COLOURS[kind];
  pen.fill();
  pen.lineWidth = Math.max(1.5, size / 5);
  pen.strokeStyle = "white";
  pen.stroke();
}

/** A hollow ring, or a cross in one. @param {CanvasRenderingContext2D} pen @param {number} x @param {number} y @param {number} radius */
export function ring(pen, x, y, radius, cross = false) {
  for (const [colour, width] of /** @type {[string, number][]} */ ([["rgb(0 0 0 / 55%)", 4], ["white", 2]])) {
    pen.beginPath();
    pen.arc(x, y, radius, 0, 7);
    if (cross) for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.moveTo(x + dx * radius * 0.4, y + dy * radius * 0.4);
      pen.lineTo(x + dx * radius, y + dy * radius);
    }
    Object.assign(pen, { strokeStyle: colour, lineWidth: width });
    pen.stroke();
  }
}

/** A drawn path. @param {CanvasRenderingContext2D} pen @param {[number, number][]} points in pixels @param {number} size */
export function line(pen, points, size) {
  for (const [colour, width] of /** @type {[string, number][]} */ ([["white", 0.8], [COLOURS.path, 0.5]])) {
    pen.beginPath();
    for (const [x, y] of points) pen.lineTo(x, y);
    Object.assign(pen, { strokeStyle: colour, lineWidth: size * width, lineCap: "round", lineJoin: "round" });
    pen.stroke();
  }
}
