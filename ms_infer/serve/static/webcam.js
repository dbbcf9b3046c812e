// The webcam's pictures, small and like a mirror, on their way to the server.

import { $, toast } from "./dom.js";
import { began } from "./pointers.js";
import { packWebcam } from "./protocol.js";
import { state } from "./state.js";
import { send } from "./wire.js";

const WIDTH = 160, HEIGHT = 120, PAUSE_MS = 80;
/** @type {MediaStream | null} */
let stream = null;

export async function toggleWebcam() {
  if (stream) {
    for (const track of stream.getTracks()) track.stop();
    stream = null;
  } else {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: 320, height: 240 } });
    } catch {
      return toast("The webcam cannot be used");
    }
  }
  $("webcam").setAttribute("aria-pressed", String(Boolean(stream)));
  send({ do: "webcam", on: Boolean(stream) });
  if (!stream) return;
  began();
  await sendPictures(stream);
}

/** @param {MediaStream} source */
async function sendPictures(source) {
  const video = Object.assign(document.createElement("video"), { srcObject: source, muted: true });
  const small = Object.assign(document.createElement("canvas"), { width: WIDTH, height: HEIGHT });
  const pen = /** @type {CanvasRenderingContext2D} */ (small.getContext("2d"));
  pen.setTransform(-1, 0, 0, 1, WIDTH, 0);
  await video.play();
  const timer = setInterval(() => {
    if (stream !== source) return clearInterval(timer);
    pen.drawImage(video, 0, 0, WIDTH, HEIGHT);
    small.toBlob((blob) => blob && state.socket?.send(packWebcam(blob)), "image/jpeg", 0.7);
  }, PAUSE_MS);
}
