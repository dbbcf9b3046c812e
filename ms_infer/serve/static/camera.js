// The camera: its stick, and the sliders that spring back.

import { $, field } from "./dom.js";
import { began } from "./pointers.js";
import { state } from "./state.js";
import { send } from "./wire.js";

/** @param {Partial<typeof state.stick>} change */
export function moveCamera(change) {
  Object.assign(state.stick, change);
  const knob = /** @type {HTMLElement} */ ($("pad").firstElementChild);
  knob.style.translate = `${state.stick.x * 30}px ${state.stick.y * 30}px`;
  if (Object.values(state.stick).some(Boolean)) began();
  send({ do: "camera", ...state.stick });
}

/** Let the stick spring back. */
export function restCamera() {
  if (Object.values(state.stick).some(Boolean)) moveCamera({ x: 0, y: 0, zoom: 0, roll: 0 });
}

export function wireCamera() {
  for (const id of ["zoom", "roll"]) {
    field(id).oninput = () => moveCamera({ [id]: Number(field(id).value) });
    field(id).onchange = () => {
      field(id).value = "0"; // it springs back when let go
      moveCamera({ [id]: 0 });
    };
  }
  const pad = $("pad");
  const follow = (/** @type {PointerEvent} */ event) => {
    if (!pad.hasPointerCapture(event.pointerId)) return;
    const box = pad.getBoundingClientRect();
    const limit = (/** @type {number} */ value) => Math.min(Math.max(value, -1), 1);
    moveCamera({ x: limit((event.clientX - box.left - 46) / 40), y: limit((event.clientY - box.top - 46) / 40) });
  };
  pad.onpointerdown = (event) => {
    pad.setPointerCapture(event.pointerId);
    follow(event);
  };
  pad.onpointermove = follow;
  pad.onlostpointercapture = () => moveCamera({ x: 0, y: 0 });
}
