// Motion from a video or a webcam: what it comes from is shown beside the picture.

import { $, all, button, field } from "./dom.js";
import { requestDraw } from "./draw.js";
import { began } from "./play.js";
import { packWebcam } from "./protocol.js";
import { state } from "./state.js";
import { send } from "./wire.js";
import { say } from "./words.js";

const WIDTH = 160, HEIGHT = 120, PAUSE_MS = 80;
const preview = /** @type {HTMLVideoElement} */ ($("preview"));
/** @type {MediaStream | null} */
let webcam = null;
/** @type {number | undefined} */
let timer;

/** Show where the motion comes from. @param {File} file */
export function showSource(file) {
  endWebcam();
  URL.revokeObjectURL(preview.src);
  Object.assign(preview, { srcObject: null, src: URL.createObjectURL(file), loop: field("loop").checked });
  preview.play().catch(() => {}); // a format that the server reads and the browser does not
  $("source-name").textContent = file.name;
  show("video");
}

/** @param {"" | "video" | "webcam"} what */
function show(what) {
  state.transfer = what === "video";
  $("source").hidden = !what;
  $("looping").hidden = what !== "video";
  $("webcam-start").hidden = what !== "webcam" || Boolean(timer);
  preview.classList.toggle("mirror", what === "webcam");
  $("webcam").setAttribute("aria-pressed", String(what === "webcam"));
  requestDraw();
}

async function toggleWebcam() {
  if (webcam) return back();
  try {
    webcam = await navigator.mediaDevices.getUserMedia({ video: { width: 320, height: 240 } });
  } catch {
    return say("webcam");
  }
  preview.srcObject = webcam;
  await preview.play();
  $("source-name").textContent = "You move them";
  show("webcam");
}

/** The webcam moves the points from now on. */
function startWebcam() {
  const small = Object.assign(document.createElement("canvas"), { width: WIDTH, height: HEIGHT });
  const pen = /** @type {CanvasRenderingContext2D} */ (small.getContext("2d"));
  pen.setTransform(-1, 0, 0, 1, WIDTH, 0); // like a mirror
  began();
  send({ do: "webcam", on: true });
  timer = setInterval(() => {
    pen.drawImage(preview, 0, 0, WIDTH, HEIGHT);
    small.toBlob((blob) => blob && state.socket?.send(packWebcam(blob)), "image/jpeg", 0.7);
  }, PAUSE_MS);
  show("webcam");
}

function endWebcam() {
  if (timer) send({ do: "webcam", on: false });
  clearInterval(timer);
  timer = undefined;
  for (const track of webcam?.getTracks() ?? []) track.stop();
  webcam = null;
}

/** The grid again. */
function back() {
  if (state.transfer) send({ do: "transfer", on: false });
  endWebcam();
  preview.pause();
  show("");
}

export function wireMotion() {
  button("webcam").onclick = toggleWebcam;
  button("webcam-start").onclick = startWebcam;
  button("back").onclick = back;
  field("loop").onchange = () => {
    preview.loop = field("loop").checked;
    if (preview.loop) preview.play().catch(() => {});
    send({ do: "transfer", on: true, loop: field("loop").checked });
  };
  for (const one of all("#tabs [data-tab]"))
    one.onclick = () => {
      document.body.dataset.tab = one.dataset.tab;
      for (const other of all("#tabs [data-tab]")) other.setAttribute("aria-pressed", String(other === one));
    };
}
