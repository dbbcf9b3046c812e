// The page begins here: what the server says goes to the modules, and so does what a person does.

/** @import { Tool } from "./state.js" */
import { wireCamera } from "./camera.js";
import { $, all, button, field } from "./dom.js";
import { canvas, requestDraw, resize } from "./draw.js";
import { wireFiles } from "./files.js";
import { onFrame } from "./frames.js";
import { onHistory, redo, undo } from "./history.js";
import { chooseTool, showHelp, wireKeys } from "./keys.js";
import { wireLooks } from "./looks.js";
import { wireMotion } from "./motion.js";
import { tell } from "./numbers.js";
import { allow, clear, pause, toggle } from "./play.js";
import { wirePointers } from "./pointers.js";
import { Type } from "./protocol.js";
import { onAck, onBye, onError, onHello, onLost, onStats, watchClock } from "./session.js";
import { wireShare } from "./share.js";
import { wireThing } from "./thing.js";
import { connect, inner, onType, send } from "./wire.js";

function wireButtons() {
  const record = () => void send({ do: "record", on: $("record").getAttribute("aria-pressed") !== "true" });
  const click = { play: toggle, pause, undo, redo, clear, record, "open-help": showHelp };
  for (const [id, action] of Object.entries(click)) button(id).onclick = () => action();
  for (const one of all("button[data-tool]")) one.onclick = () => chooseTool(/** @type {Tool} */ (one.dataset.tool));
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

document.body.classList.toggle("inner", inner);
onType(Type.HELLO, onHello);
onType(Type.FRAME, onFrame);
onType(Type.ACK, onAck);
onType(Type.STATS, onStats);
onType(Type.ERROR, onError);
onType(Type.BYE, onBye);
onHistory(allow);
for (const wire of [wireButtons, wireSettings, wirePointers, wireCamera, wireKeys, wireFiles, wireLooks, wireMotion, wireShare, wireThing])
  wire();
chooseTool("thing");
new ResizeObserver(resize).observe(canvas);
setInterval(tell, 500);
watchClock();
connect(onLost);
