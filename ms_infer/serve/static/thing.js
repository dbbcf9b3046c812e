// The thing under a pointer: asked of the server, shown before anything is dragged, corrected by further clicks.

/** @import { Pair, Place, Thing } from "./state.js" */
import { $, all } from "./dom.js";
import { requestDraw } from "./draw.js";
import { live, state } from "./state.js";
import { request } from "./wire.js";

const REST_MS = 140, LIVE_REST_MS = 350; // a mouse that rests so long asks what is under it; a running stream is dear
const ELSEWHERE = 0.03; // of the picture: so far from a place without a thing it asks again
/** @type {Place | null} */
let nothingAt = null;
const SAME = 0.01; // of the picture: places so near ask the same
let asked = 0;
/** @type {AbortController | null} */
let asking = null;
/** @type {number | undefined} */
let timer;

/** Whether a place lies within one of the polygons an odd number of times. @param {Thing} thing @param {Place} at */
export function inside(thing, { x, y }) {
  let within = false;
  for (const line of thing.outline)
    for (let i = 0, j = line.length - 1; i < line.length; j = i++) {
      const [ax, ay] = line[i], [bx, by] = line[j];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
    }
  return within;
}

/**
 * The thing at places, null when there is none. Only the newest question is answered.
 * @param {Pair[]} add @param {Pair[]} omit @returns {Promise<Thing | null>}
 */
async function find(add, omit) {
  const number = ++asked;
  asking?.abort();
  asking = new AbortController();
  try {
    const answer = await request("thing", { method: "POST", body: JSON.stringify({ add, omit }), signal: asking.signal });
    if (!answer.ok || number !== asked) return null;
    const { outline, points } = await answer.json();
    return outline ? { outline, points, add, omit, picked: false } : null;
  } catch {
    return null;
  }
}

/** What was asked last for a place, with its answer. @type {{ at: Place, answer: Promise<Thing | null> } | null} */
let open = null;

/** The thing at a place, kept when it is already known or asked for. @param {Place} at @returns {Promise<Thing | null>} */
export async function thingAt(at) {
  clearTimeout(timer);
  if (state.thing && inside(state.thing, at)) return state.thing;
  if (!open || Math.hypot(open.at.x - at.x, open.at.y - at.y) > SAME) {
    const mine = { at, answer: find([[at.x, at.y]], []) };
    open = mine;
    mine.answer.finally(() => open === mine && (open = null));
  }
  const found = await open.answer;
  if (found) setThing(found);
  return found;
}

/** Add to the thing that is picked, or leave out. @param {"more" | "less"} how @param {Pair[]} places */
export async function correct(how, places) {
  const { thing } = state;
  if (!thing) return;
  const add = how === "more" ? [...thing.add, ...places] : thing.add;
  const omit = how === "less" ? [...thing.omit, ...places] : thing.omit;
  open = null;
  const found = await find(add.slice(-32), omit.slice(-32));
  if (found) setThing({ ...found, picked: true });
}

/** @param {Thing | null} thing */
export function setThing(thing) {
  state.thing = thing;
  if (!thing?.picked) setCorrecting("");
  $("thing-bar").hidden = !thing?.picked;
  requestDraw();
}

/** A click takes it. */
export function pickThing() {
  if (state.thing) setThing({ ...state.thing, picked: true });
  $("hint").classList.add("gone");
}

export const forgetThing = () => setThing(null);

/** @param {"" | "more" | "less"} how */
export function setCorrecting(how) {
  state.correcting = how;
  for (const id of ["more", "less"]) $(id).setAttribute("aria-pressed", String(how === id));
}

/** A mouse is over the picture, or has left it. @param {Place | null} at */
export function hoverThing(at) {
  clearTimeout(timer);
  const { thing } = state;
  const over = Boolean(at && thing && inside(thing, at));
  document.body.classList.toggle("over-thing", over);
  if (thing?.picked || over || state.pointers.size || !state.hello?.owner || state.mode === "lost") return;
  if (thing && (!at || live())) setThing(null); // in a moving picture an old outline is a wrong one
  if (!at || state.tool !== "thing") return;
  if (nothingAt && Math.hypot(at.x - nothingAt.x, at.y - nothingAt.y) < ELSEWHERE) return;
  timer = setTimeout(async () => (nothingAt = (await thingAt(at)) ? null : at), live() ? LIVE_REST_MS : REST_MS);
}

export function wireThing() {
  for (const how of /** @type {("more" | "less")[]} */ (["more", "less"]))
    $(how).onclick = () => setCorrecting(state.correcting === how ? "" : how);
  $("forget").onclick = forgetThing;
  for (const one of all("#thing-bar")) one.onpointerdown = (event) => event.stopPropagation();
}
