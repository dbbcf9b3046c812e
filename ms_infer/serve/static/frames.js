// From the bytes of a frame to the picture that is shown; the newest one wins.

/** @import { Frame, Picture } from "./state.js" */
import { requestDraw } from "./draw.js";
import { dropPlayed } from "./plans.js";
import { Codec } from "./protocol.js";
import { state } from "./state.js";
import { send } from "./wire.js";
import { say } from "./words.js";

/** @type {Frame | null} */
let waiting = null;
let decoding = false;
/** @type {VideoDecoder | null} */
let decoder = null;
let decoderWidth = 0;
/** @type {Frame[]} */
let queued = [];

/** Forget the stream of video; the next frame stands alone. */
export function resetDecoder() {
  if (decoder && decoder.state !== "closed") decoder.close();
  decoder = null;
}

/** @param {Frame} frame */
export function onFrame(frame) {
  if (frame.codec !== Codec.JPEG && frame.codec !== Codec.WEBP) return decodeVideo(frame);
  if (waiting) state.lost += 1;
  waiting = frame;
  if (!decoding) decodePictures();
}

async function decodePictures() {
  decoding = true;
  while (waiting) {
    const frame = waiting;
    waiting = null;
    try {
      show(await createImageBitmap(new Blob([frame.bytes], { type: frame.codec === Codec.WEBP ? "image/webp" : "image/jpeg" })), frame);
    } catch {
      state.lost += 1;
    }
  }
  decoding = false;
}

/** Profile and level of a stream of video, from its sequence parameter set. @param {Uint8Array} bytes */
function codecName(bytes) {
  let at = 0;
  const here = () => bytes[at + 2] === 1 && !(bytes[at] | bytes[at + 1]) && (bytes[at + 3] & 31) === 7;
  while (at < bytes.length && !here()) at++;
  return "avc1." + [4, 5, 6].map((i) => bytes[at + i].toString(16).padStart(2, "0")).join("");
}

/** The browser took the decoder away, or it failed: the next picture must stand alone. */
function reclaimed() {
  decoder = null;
  queued = [];
  send({ do: "key" });
  say("codec");
}

/** @param {Frame} frame */
function decodeVideo(frame) {
  const key = frame.codec === Codec.H264_KEY;
  if (key && decoder && decoderWidth !== frame.width) resetDecoder();
  if (!decoder && key) {
    decoderWidth = frame.width;
    decoder = new VideoDecoder({
      output: (picture) => show(picture, /** @type {Frame} */ (queued.shift())),
      error: reclaimed,
    });
    decoder.configure({ codec: codecName(frame.bytes), optimizeForLatency: true });
    queued = [];
  }
  if (decoder?.state === "closed") reclaimed();
  if (!decoder) return;
  queued.push(frame);
  decoder.decode(new EncodedVideoChunk({ type: key ? "key" : "delta", timestamp: frame.index, data: frame.bytes }));
}

/** @param {Picture} picture @param {Frame} frame */
function show(picture, frame) {
  state.picture?.close?.(); // an ImageBitmap holds its memory until closed
  Object.assign(state, { picture, frame });
  const now = performance.now();
  state.shown.push(now);
  while (state.shown[0] < now - 2000) state.shown.shift();
  for (const [id, sent] of state.sent) {
    if (id > frame.control) break;
    state.latencies.push(now - sent);
    state.sent.delete(id);
  }
  state.latencies.splice(0, state.latencies.length - 300);
  dropPlayed(frame.index);
  requestDraw();
}
