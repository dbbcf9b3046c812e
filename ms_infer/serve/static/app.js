// The page begins here: what the server says goes to the modules, and so does what a person does.

/** @import { Ack, Hello, Tool } from "./state.js" */
import { wireCamera } from "./camera.js";
import { $, all, button, field, toast } from "./dom.js";
import { canvas, requestDraw, resize } from "./draw.js";
import { download, showExample, showExamples, wireFiles } from "./files.js";
import { onFrame, resetDecoder } from "./frames.js";
import { chooseTool, showHelp, wireKeys } from "./keys.js";
import { tell, tellStats } from "./numbers.js";
import { clear, pause, reset, setMode, toggle } from "./play.js";
import { wirePointers } from "./pointers.js";
import { Type } from "./protocol.js";
import { state } from "./state.js";
import { toggleWebcam } from "./webcam.js";
import { connect, connected, join, onType, send } from "./wire.js";

const REASONS = ["replaced", "version", "rate", "garbage"]; // to end for which it is of no use to come back

/** @param {Hello} hello */
function onHello(hello) {
  Object.assign(state, { hello, retry: 500, control: Math.max(state.control, hello.last_control) });
  state.sent.clear();
  state.acks.clear();
  resetDecoder();
  if (hello.owner) sessionStorage.setItem("session", JSON.stringify({ session: hello.session, key: hello.key }));
  $("watch").hidden = true;
  for (const one of all("#bar button, #panel input, #panel button"))
    /** @type {HTMLButtonElement | HTMLInputElement} */ (one).disabled = !hello.owner;
  document.documentElement.style.setProperty("--aspect", String(hello.width / hello.height));
  $("words").replaceChildren(...hello.words.map((word) => new Option(word)));
  field("text").value = hello.prompt;
  showExamples(hello.examples);
  setMode(hello.state);
  if (!state.picture && hello.state === "waiting") showExample(hello.examples[0]);
  resize();
}

/** @param {any} stats */
function onStats(stats) {
  if (stats.state && stats.state !== state.mode) setMode(stats.state);
  tellStats(stats);
  if (stats.recording === undefined) return;
  $("record").setAttribute("aria-pressed", stats.recording);
  if (stats.recorded && !stats.recording) download();
}

/** @param {{ code: string, text: string, watch?: boolean }} error */
function onError(error) {
  if (error.code !== "refused") return toast(error.text);
  setMode("lost", error.text);
  $("watch").hidden = !error.watch;
  setTimeout(() => connected() && state.mode === "lost" && join(), 3000);
}

/** @param {{ reason: string, text: string }} bye */
function onBye(bye) {
  state.ended = REASONS.includes(bye.reason);
  if (!state.ended) sessionStorage.removeItem("session");
  setMode("lost", `Ended: ${bye.text}`);
}

/** @param {Ack & { chunk: number }} ack */
function onAck(ack) {
  state.acks.set(ack.chunk, ack);
  if (state.acks.size > 4) state.acks.delete(/** @type {number} */ (state.acks.keys().next().value));
  state.placed = [];
}

function wireButtons() {
  const record = () => void send({ do: "record", on: $("record").getAttribute("aria-pressed") !== "true" });
  const watch = () => {
    state.watching = true;
    join();
  };
  const back = () => void send({ do: "transfer", on: false });
  const click = { play: toggle, pause, reset, clear, webcam: toggleWebcam, "open-help": showHelp, record, back, watch };
  for (const [id, action] of Object.entries(click)) button(id).onclick = () => action();
  for (const one of all("[data-tool]")) one.onclick = () => chooseTool(/** @type {Tool} */ (one.dataset.tool));
  $("prompt").onsubmit = (event) => {
    event.preventDefault();
    send({ do: "prompt", text: field("text").value });
  };
}

function wireSettings() {
  const density = () => Number(field("density").value);
  const show = () => {
    $("density-out").textContent = `${density()} × ${density()}`;
    $("radius-out").textContent = `${field("radius").value} %`;
    requestDraw();
  };
  field("density").onchange = () => send({ do: "grid", rows: density(), cols: density() });
  field("density").oninput = field("radius").oninput = show;
  for (const id of ["rest", "released"])
    field(id).onchange = () => send({ do: "options", [`hold_${id}`]: field(id).checked });
  show();
}

onType(Type.HELLO, onHello);
onType(Type.FRAME, onFrame);
onType(Type.ACK, onAck);
onType(Type.STATS, onStats);
onType(Type.ERROR, onError);
onType(Type.BYE, onBye);
wireButtons();
wireSettings();
wirePointers();
wireCamera();
wireKeys();
wireFiles();
new ResizeObserver(resize).observe(canvas);
setInterval(tell, 500);
connect(() => setMode("lost", state.ended ? "" : "Connection lost, trying again"));
