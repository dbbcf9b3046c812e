// What the keyboard does.

/** @import { Place, Tool } from "./state.js" */
import { moveCamera, restCamera } from "./camera.js";
import { $, all } from "./dom.js";
import { requestDraw } from "./draw.js";
import { clear, pause, reset, toggle } from "./play.js";
import { began, note } from "./pointers.js";
import { state } from "./state.js";

/** @param {Tool} name */
export function chooseTool(name) {
  state.tool = name;
  for (const one of all("[data-tool]")) one.setAttribute("aria-checked", String(one.dataset.tool === name));
}

export const showHelp = () => /** @type {HTMLDialogElement} */ ($("help")).showModal();

/** @type {Record<string, () => void>} */
const KEYS = {
  Enter: toggle, " ": pause, r: reset, c: clear, "?": showHelp,
  v: () => chooseTool("drag"), s: () => chooseTool("static"), d: () => chooseTool("path"), b: () => chooseTool("brush"),
  g: () => (state.grid = !state.grid), m: () => (state.marks = !state.marks),
};
/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
/** @type {Record<string, [string, number]>} */
const HELD = { "+": ["zoom", 1], "=": ["zoom", 1], "-": ["zoom", -1], ",": ["roll", -1], ".": ["roll", 1] };

/** @type {Set<string>} */
const held = new Set();
/** @type {(Place & { number: number }) | null} the drag of the cross */
let dragging = null;

/** Whether a key is meant for what has the focus. @param {KeyboardEvent} event */
function isTyping(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  const pressing = target.matches("button") && [" ", "Enter"].includes(event.key);
  return pressing || event.ctrlKey || event.metaKey || target.matches("input:not([type=checkbox]), dialog *");
}

/** @param {KeyboardEvent} event */
function onKeyDown(event) {
  if (isTyping(event) || (!state.hello?.owner && event.key !== "?")) return;
  const arrow = ARROWS[event.key];
  if (arrow && (event.shiftKey || event.altKey)) moveCross(arrow, event.shiftKey);
  else if (arrow) {
    held.add(event.key);
    moveCamera(arrow[0] ? { x: arrow[0] } : { y: arrow[1] });
  } else if (HELD[event.key]) moveCamera({ [HELD[event.key][0]]: HELD[event.key][1] });
  else if (KEYS[event.key] && !event.repeat) KEYS[event.key]();
  else return;
  event.preventDefault();
  requestDraw();
}

/** @param {KeyboardEvent} event */
function onKeyUp(event) {
  if (event.key === "Shift") liftCross();
  const arrow = ARROWS[event.key];
  if (arrow && held.delete(event.key)) moveCamera(arrow[0] ? { x: 0 } : { y: 0 });
  else if (HELD[event.key]) moveCamera({ [HELD[event.key][0]]: 0 });
}

/** @param {[number, number]} direction @param {boolean} taking */
function moveCross([dx, dy], taking) {
  const { cross } = state;
  if (taking && !dragging) {
    began();
    note((dragging = { number: state.next++, x: cross.x, y: cross.y }), "down");
  }
  Object.assign(cross, { x: cross.x + dx * 0.02, y: cross.y + dy * 0.02, shown: true });
  if (dragging) note(Object.assign(dragging, { x: cross.x, y: cross.y }), "move");
}

function liftCross() {
  if (dragging) note(dragging, "up");
  dragging = null;
}

export function wireKeys() {
  Object.assign(document, { onkeydown: onKeyDown, onkeyup: onKeyUp });
  window.onblur = () => {
    liftCross();
    restCamera();
  };
}
