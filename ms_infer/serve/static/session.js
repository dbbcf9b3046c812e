// The life of a session on the page: greeted, told how things are, lost and found again, ended.

/** @import { Ack, Hello } from "./state.js" */
import { $, toast } from "./dom.js";
import { requestDraw, resize } from "./draw.js";
import { save, sendPicture, showExample, showExamples } from "./files.js";
import { resetDecoder } from "./frames.js";
import { followPointers } from "./hand.js";
import { keptOwn } from "./keep.js";
import { showLooks } from "./looks.js";
import { tellStats } from "./numbers.js";
import { notePlans } from "./plans.js";
import { refresh, setLost, setMode } from "./play.js";
import { state } from "./state.js";
import { setThing } from "./thing.js";
import { address, connected, inner, join, reconnect, remember, remembered, token } from "./wire.js";
import { offer, say } from "./words.js";

const AGAIN_MS = 3000; // a server that is full or loading is asked again after this time
const JUMP_MS = 3000;
const RESTART = 1012; // the code with which a server that is stopped closes its connections
/** @type {number | undefined} */
let again;
/** @type {"back" | "clock"} what is said when the stream is there again */
let returned = "back";

/** @param {Hello} hello */
export function onHello(hello) {
  const before = state.hello, known = (before?.session ?? remembered()) === hello.session;
  Object.assign(state, { hello, retry: 500, control: Math.max(state.control, hello.last_control), resting: hello.resting ?? false, free: false });
  state.sent.clear();
  state.acks.clear();
  resetDecoder();
  if (!known) setThing(null);
  if (hello.owner) {
    state.watching = "";
    remember({ session: hello.session, key: hello.key });
  }
  document.documentElement.style.setProperty("--aspect", String(hello.width / hello.height));
  document.body.classList.toggle("watches", !hello.owner);
  offer({});
  showExamples(hello.examples);
  showLooks();
  setMode(hello.state);
  if (hello.owner && before && !known) afresh();
  else if (hello.owner && before && !before.owner) say("took");
  else if (before) say(returned);
  returned = "back";
  if (!before && hello.owner && !inner) firstPicture(known);
  resize();
}

/** What is shown after the page was loaded: the picture that was there before, or an example. @param {boolean} known whether the session is the one before */
async function firstPicture(known) {
  state.own = await keptOwn();
  if (state.own && !known) return afresh();
  if (!state.picture && !state.own && state.hello?.state === "waiting") showExample(state.hello.examples[0]);
}

/** Another session than before: the picture of one's own goes with us. */
async function afresh() {
  state.plans = [];
  state.recording = 0;
  state.frame = null;
  if (state.own) {
    if (await sendPicture(state.own)) say("restarted");
  } else if (state.hello) showExample(state.hello.examples[0]);
}

/** @param {any} stats */
export function onStats(stats) {
  const { state: mode, resting, recording, recorded, free } = stats;
  tellStats(stats);
  if (resting !== undefined) state.resting = resting;
  if (free !== undefined) state.free = free;
  if (mode && mode !== state.mode) setMode(mode);
  if (recording !== undefined) {
    state.recording = recording ? state.recording || performance.now() : 0;
    $("record").setAttribute("aria-pressed", recording);
    if (recorded && !recording) save("recording", "motion.mp4");
  }
  refresh();
}

/** @param {{ code: string, text: string, reason?: string, watch?: boolean, place?: number }} error */
export function onError(error) {
  if (error.code !== "refused") return toast(error.text);
  if (error.reason === "gone") {
    remember(null); // a new session takes its place, and the picture is sent again
    return join();
  }
  const line = error.place ? `; you are number ${error.place} in line` : "; you come in when somebody leaves";
  if (error.reason === "full") setLost("full", { line });
  else if (error.reason === "loading") setLost("loading");
  else setLost("refused", { text: error.text });
  offer(error.watch ? { Watch: () => watch("any") } : {});
  clearTimeout(again);
  again = setTimeout(() => connected() && state.mode === "lost" && !state.ended && join(), AGAIN_MS);
}

/** @param {string} which session */
function watch(which) {
  state.watching = which;
  clearTimeout(again);
  join();
}

/** @param {{ reason: string, text: string }} bye */
export function onBye({ reason, text }) {
  const moved = reason === "moved"; // it waits for us
  state.ended = reason !== "closing" && !moved;
  if (reason !== "replaced" && !moved) remember(null);
  if (reason === "replaced") setLost("replaced");
  else if (reason === "idle") setLost("idle");
  else if (reason === "closing" || moved) setLost("closing");
  else setLost("ended", { text });
  if (state.ended) offer({ [reason === "replaced" ? "Use it here" : "Start again"]: startAgain });
}

function startAgain() {
  state.watching = "";
  offer({});
  reconnect();
}

/** The connection is gone. What a goodbye said stays. @param {boolean} greeted whether there ever was one @param {number} code */
export async function onLost(greeted, code) {
  if (state.ended || document.body.dataset.state === "closing") return;
  if (code === RESTART) return setLost("closing");
  if (greeted) return setLost("lost");
  await diagnose();
}

/** Why no connection comes about: ask over HTTP, which can say. */
async function diagnose() {
  try {
    const answer = await fetch(address("api/sessions"));
    if (answer.ok && answer.headers.get("content-type")?.includes("json")) return setLost("lost");
    const { error } = await answer.json().catch(() => ({}));
    if (!error) return setLost("proxy", { code: `HTTP ${answer.status}` });
    if (answer.status !== 403) return setLost("lost");
    state.ended = true;
    if (/token/.test(error)) setLost(token ? "token-wrong" : "token-missing");
    else setLost("refused", { text: error });
  } catch {
    setLost("lost");
  }
}

/** @param {Ack} ack */
export function onAck(ack) {
  followPointers(ack);
  state.acks.set(ack.chunk, ack);
  if (state.acks.size > 4) state.acks.delete(/** @type {number} */ (state.acks.keys().next().value));
  notePlans(ack);
  requestDraw();
}

/** A computer that slept: what was measured is wrong, and the server has another idea of our clock. */
export function watchClock() {
  let wall = Date.now(), clock = performance.now();
  setInterval(() => {
    const jump = Math.abs(Date.now() - wall - (performance.now() - clock));
    [wall, clock] = [Date.now(), performance.now()];
    if (jump < JUMP_MS || !connected()) return;
    state.latencies = [];
    state.sent.clear();
    returned = "clock";
    reconnect();
  }, 1000);
}
