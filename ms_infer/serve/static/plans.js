// What is placed and drawn: it stays visible until it is played, while paused it waits, and it can be taken back.

/** @import { Ack, Pair, Plan } from "./state.js" */
import { requestDraw } from "./draw.js";
import { did } from "./history.js";
import { allow, sendPlan } from "./play.js";
import { state } from "./state.js";
import { send } from "./wire.js";

/** Add something; while paused it waits for the stream to go on. @param {Omit<Plan, "sent" | "begins">} what */
export function addPlan(what) {
  /** @type {Plan} */
  let plan = { ...what, sent: 0, begins: null };
  const put = () => {
    plan = { ...what, sent: 0, begins: null };
    if (state.mode !== "paused") plan.sent = sendPlan(plan);
    state.plans.push(plan);
    allow();
    requestDraw();
  };
  const takeBack = () => {
    const waits = state.plans.includes(plan) && !plan.sent;
    state.plans = state.plans.filter((one) => one !== plan);
    if (!waits && plan.kind === "path") retrace(plan.points, plan.radius, plan.thing);
    else if (!waits) send({ do: "remove", points: plan.points });
    allow();
    requestDraw();
  };
  put();
  did({ undo: takeBack, redo: put });
}

/** Take what went along a line back to its beginning. @param {Pair[]} points @param {number} radius @param {Pair[]} [thing] at the beginning */
export function retrace(points, radius, thing) {
  const back = [...points].reverse();
  const [[x0, y0], [x1, y1]] = [points[0], back[0]];
  const there = thing?.map(([x, y]) => /** @type {Pair} */ ([x + x1 - x0, y + y1 - y0]));
  send({ do: "path", points: back, seconds: 1, radius, thing: there });
}

/** What a chunk was made with: plans that went before it are played from its first frame on. @param {Ack} ack */
export function notePlans(ack) {
  for (const plan of state.plans) if (plan.sent && plan.sent <= ack.control) plan.begins ??= ack.first;
}

/** Forget what the frame that is shown has played. @param {number} index of the frame */
export function dropPlayed(index) {
  const fps = state.hello?.fps ?? 24;
  const before = state.plans.length;
  state.plans = state.plans.filter(({ begins, kind, seconds }) => begins === null || index < begins + (kind === "path" ? seconds * fps : 0));
  if (state.plans.length !== before) allow();
}
