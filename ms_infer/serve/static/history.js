// Undo and redo: whoever does something says how it is taken back and how it is done again.

/** @typedef {{ undo: () => void, redo: () => void }} Step */

const MOST = 100;
/** @type {Step[]} */
let past = [];
/** @type {Step[]} */
let future = [];
/** @type {() => void} */
let changed = () => {};

export const canUndo = () => past.length > 0;
export const canRedo = () => future.length > 0;

/** @param {() => void} listener */
export function onHistory(listener) {
  changed = listener;
}

/** @param {Step} step that was just done */
export function did(step) {
  past.push(step);
  past.splice(0, past.length - MOST);
  future = [];
  changed();
}

export function undo() {
  const step = past.pop();
  if (!step) return;
  future.push(step);
  step.undo();
  changed();
}

export function redo() {
  const step = future.pop();
  if (!step) return;
  past.push(step);
  step.redo();
  changed();
}

export function forgetHistory() {
  past = [];
  future = [];
  changed();
}
