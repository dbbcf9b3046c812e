// What is placed and drawn: it stays visible until it is played, while paused it waits, and it can be taken back.

/** @import { Ack, Pair, Plan } from "./state.js" */
import { requestDraw } from "./draw.js";
import { standing } from "./hand.js";
import { did } from "./history.js";
import { allow, sendPlan } from "./play.js";
import { state } from "./state.js";
import { send } from "./wire.js";
import { say } from "./words.js";

/** Add something; while paused it waits for the stream to go on. @param {Omit<Plan, "sent" | "begins" | "back">} what */
export function addPlan(what) {
  /** @type {Plan} */
  let plan = { ...what, sent: 0, begins: null, back: null };
  const [x, y] = what.points[0], took = what.thing ?? standing({ x, y });
  const put = () => {
    if (state.plans.includes(plan)) return void (plan.back = null); // it was to be taken back at its end
    plan = { ...what, sent: 0, begins: null, back: null };
    if (state.mode !== "paused") plan.sent = sendPlan(plan);
    state.plans.push(plan);
    allow();
    requestDraw();
  };
  const takeBack = () => {
    const there = state.plans.includes(plan), waits = there && !plan.sent;
    if (there && plan.sent && plan.kind === "path") {
      plan.back = took ?? []; // what goes along it is only at its end for sure
      return say("back-later");
    }
    state.plans = state.plans.filter((one) => one !== plan);
    if (!waits && plan.kind === "path") retrace(plan.points, plan.radius, took);
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
  const there = thing?.length ? thing.map(([x, y]) => /** @type {Pair} */ ([x + x1 - x0, y + y1 - y0])) : undefined;
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
  const played = state.plans.filter(({ begins, kind, seconds }) => begins !== null && index >= begins + (kind === "path" ? seconds * fps : 0));
  state.plans = state.plans.filter((plan) => !played.includes(plan));
  for (const { back, points, radius } of played) if (back) retrace(points, radius, back);
  if (state.plans.length !== before) allow();
}
