// What the keyboard does.

/** @import { Place, Tool } from "./state.js" */
import { restStick, steer } from "./camera.js";
import { $, all } from "./dom.js";
import { requestDraw } from "./draw.js";
import { redo, undo } from "./history.js";
import { began, clear, pause, refresh, toggle } from "./play.js";
import { note } from "./pointers.js";
import { state } from "./state.js";
import { forgetThing } from "./thing.js";

/** @param {Tool} name */
export function chooseTool(name) {
  state.tool = name;
  if (name !== "thing" && !state.thing?.picked) forgetThing();
  for (const one of all("[data-tool]")) if (one !== document.body) one.setAttribute("aria-checked", String(one.dataset.tool === name));
  const other = /** @type {HTMLIFrameElement | null} */ (document.querySelector("#futures iframe"));
  const inside = /** @type {any} */ (other?.contentWindow);
  if (inside?.page) inside.page.tool = name; // one bar for two futures
  refresh();
}

export const showHelp = () => /** @type {HTMLDialogElement} */ ($("help")).showModal();

/** @type {Record<string, () => void>} */
const KEYS = {
  Enter: toggle, " ": pause, c: clear, "?": showHelp, Escape: forgetThing,
  v: () => chooseTool("thing"), a: () => chooseTool("drag"), s: () => chooseTool("static"), d: () => chooseTool("path"),
  b: () => chooseTool("brush"), x: () => chooseTool("camera"),
  g: () => (state.grid = !state.grid), m: () => (state.marks = !state.marks),
};
/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
/** @type {Record<string, ["zoom" | "roll", number]>} */
const HELD = { "+": ["zoom", 1], "=": ["zoom", 1], "-": ["zoom", -1], ",": ["roll", -1], ".": ["roll", 1] };

/** @type {Set<string>} */
const held = new Set();
/** @type {(Place & { number: number }) | null} the drag of the cross */
let dragging = null;

/** @type {Element | null} what was clicked last: it has the focus, but nobody means it with the next key */
let clicked = null;

/** Whether a key is meant for what has the focus. @param {KeyboardEvent} event */
function isMeantElsewhere({ target, key }) {
  const focused = /** @type {HTMLElement} */ (target);
  if (focused.matches("dialog *, input:not([type=checkbox]):not([type=range])")) return true;
  if (focused === clicked) return false;
  if (focused.matches("input")) return key.startsWith("Arrow") || key === " ";
  return focused.matches("button, summary") && [" ", "Enter"].includes(key);
}

/** @param {KeyboardEvent} event */
function onKeyDown(event) {
  if (isMeantElsewhere(event) || (!state.hello?.owner && event.key !== "?")) return;
  const arrow = ARROWS[event.key];
  if (event.ctrlKey || event.metaKey) {
    const key = event.key.toLowerCase();
    if (key === "z") event.shiftKey ? redo() : undo();
    else if (key === "y") redo();
    else return;
  } else if (arrow && (event.shiftKey || event.altKey)) moveCross(arrow, event.shiftKey);
  else if (arrow) {
    held.add(event.key);
    steer(arrow[0] ? { x: arrow[0] } : { y: arrow[1] });
  } else if (HELD[event.key]) steer({ [HELD[event.key][0]]: HELD[event.key][1] });
  else if (KEYS[event.key]) event.repeat || KEYS[event.key]();
  else return;
  event.preventDefault();
  requestDraw();
}

/** @param {KeyboardEvent} event */
function onKeyUp(event) {
  if (event.key === " " && !isMeantElsewhere(event)) event.preventDefault(); // a button would take it as a click
  if (event.key === "Shift") liftCross();
  const arrow = ARROWS[event.key];
  if (arrow && held.delete(event.key)) steer(arrow[0] ? { x: 0 } : { y: 0 });
  else if (HELD[event.key] && state.hello?.owner) steer({ [HELD[event.key][0]]: 0 });
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
  document.addEventListener("click", ({ detail }) => (clicked = detail ? document.activeElement : null)); // 0: by a key
  document.addEventListener("focusin", () => (clicked = null));
  window.onblur = () => {
    liftCross();
    restStick();
  };
}
