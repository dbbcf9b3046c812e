// What a press takes: known before it happens, lit until the first frame made with it comes, followed from then on.

/** @import { Ack, Pair, Place, Plan, Pointer, Thing } from "./state.js" */
import { field } from "./dom.js";
import { KINDS, placeIn, pointsAt } from "./protocol.js";
import { state } from "./state.js";

const NEAR = 0.04; // as the server has it: a point this close is the one that is meant

/** How far the circle reaches, in shares of the picture's height. */
export const radius = () => Number(field("radius").value) / 100;

/** Points of the frame that is shown, or the grid before there is one; the most important last. */
export function shownPoints() {
  const ack = state.frame && state.acks.get(state.frame.chunk);
  if (!state.frame || !ack) return state.frame ? [] : grid();
  return pointsAt(ack, state.frame.index).sort((a, b) => KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind));
}

/** @returns {(Place & { kind: import("./state.js").Kind })[]} */
function grid() {
  const side = Number(field("density").value);
  return Array.from({ length: side * side }, (_, i) => ({
    x: ((i % side) + 0.5) / side,
    y: (Math.floor(i / side) + 0.5) / side,
    kind: "grid",
  }));
}

/** Points that a circle at a place takes along. @param {Place} at @returns {Place[]} */
export function caughtAt(at) {
  const { width = 1, height = 1 } = state.hello ?? {};
  const reach = Math.max(radius(), NEAR);
  return shownPoints().filter(({ x, y, kind }) =>
    kind !== "static" && Math.hypot(((x - at.x) * width) / height, y - at.y) < reach);
}

const MOST = 64; // points that may stand for what is taken

/** The same as points that stand for what was taken, so that it alone is taken back; undefined where they are too many. @param {Place} at @param {Place[]} [caught] @returns {Pair[] | undefined} */
export function standing(at, caught = caughtAt(at)) {
  const points = (caught.length ? caught : [at]).map(({ x, y }) => /** @type {Pair} */ ([x, y]));
  return points.length > MOST ? undefined : points;
}

/** Find each pointer's point in a new ack: the one at the press, then the one that goes on where it was. @param {Ack} ack */
export function followPointers(ack) {
  for (const pointer of state.pointers.values()) {
    if (pointer.hold !== "sent") continue;
    const before = pointer.row && state.acks.get(pointer.row.chunk);
    const from = before && pointer.row ? placeIn(before, pointer.row.row, before.frames - 1) : pointer.start;
    const row = nearest(ack, from ?? pointer.start);
    const origin = pointer.row?.origin ?? (row >= 0 ? placeIn(ack, row, 0) : null);
    if (row >= 0 && origin) pointer.row = { chunk: ack.chunk, row, origin };
  }
}

/** Row of the dragged point that is nearest to a place in an ack's first frame, -1 without one. @param {Ack} ack @param {Place} at */
function nearest(ack, at) {
  let best = -1, least = 0.15;
  for (let row = 0; row < ack.points; row++) {
    const place = KINDS[ack.kinds[row]] === "drag" ? placeIn(ack, row, 0) : null;
    const apart = place ? Math.hypot(place.x - at.x, place.y - at.y) : 1;
    if (apart < least) [best, least] = [row, apart];
  }
  return best;
}

/** Where the server has a pointer in the frame that is shown. @param {Pointer} pointer @returns {Place | null} */
export function appliedPlace({ row, start }) {
  const ack = row && state.acks.get(row.chunk);
  if (!row || !ack || !state.frame) return null;
  const place = placeIn(ack, row.row, state.frame.index - ack.first);
  return place && { x: start.x + place.x - row.origin.x, y: start.y + place.y - row.origin.y };
}

/** How late the picture is, in milliseconds; 0 when nothing is known. */
export const lag = () => Math.round(state.latencies[state.latencies.length - 1] ?? 0);

/** Seconds of a path that are still to be played. @param {Plan} plan */
export function secondsLeft(plan) {
  if (plan.begins === null || !state.frame) return plan.seconds;
  return Math.max(0, plan.seconds - (state.frame.index - plan.begins) / (state.hello?.fps ?? 24));
}

/** A thing that has been carried along. @param {Thing} thing @param {number} dx @param {number} dy @returns {Thing} */
export function shifted(thing, dx, dy) {
  const moved = (/** @type {Pair[]} */ pairs) => pairs.map(([x, y]) => /** @type {Pair} */ ([x + dx, y + dy]));
  const outline = thing.outline.map(moved);
  return { ...thing, outline, points: moved(thing.points), add: moved(thing.add), omit: moved(thing.omit) };
}

/** Where the thing of a drag is in the frame that is shown. @param {Pointer} pointer */
export function carriedThing(pointer) {
  if (!pointer.thing) return null;
  const at = appliedPlace(pointer) ?? pointer.start;
  return shifted(pointer.thing, at.x - pointer.start.x, at.y - pointer.start.y);
}
