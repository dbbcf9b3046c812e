// The bytes of messages (docs/reference/protocol.md).

/** @import { Ack, Frame, Kind, Place } from "./state.js" */

export const VERSION = 2;
export const Type = { HELLO: 1, CONTROL: 2, FRAME: 3, ACK: 4, STATS: 5, ERROR: 6, BYE: 7, WEBCAM: 8, SEEN: 9 };
export const Codec = { JPEG: 0, H264_DELTA: 1, H264_KEY: 2, WEBP: 3 };
const UNITS = 8192;
const HIDDEN = -32768;
/** @type {Kind[]} */
export const KINDS = ["grid", "drag", "static", "path"];

/** @param {object} control */
export const packControl = (control) => new Blob([Uint8Array.of(Type.CONTROL), JSON.stringify(control)]);

/** @param {Blob} picture */
export const packWebcam = (picture) => new Blob([Uint8Array.of(Type.WEBCAM), picture]);

/** How many messages came on this connection. @param {number} count */
export function packSeen(count) {
  const view = new DataView(new ArrayBuffer(5));
  view.setUint8(0, Type.SEEN);
  view.setUint32(1, count, true);
  return view.buffer;
}

/** @param {ArrayBuffer} data */
export const readType = (data) => new DataView(data).getUint8(0);

/** @param {ArrayBuffer} data */
export const readJson = (data) => JSON.parse(new TextDecoder().decode(new Uint8Array(data, 1)));

/** @param {ArrayBuffer} data @returns {Frame} */
export function readFrame(data) {
  const view = new DataView(data);
  return {
    codec: view.getUint8(1),
    width: view.getUint16(2, true),
    chunk: view.getUint32(6, true),
    index: view.getUint32(10, true),
    control: view.getUint32(14, true),
    bytes: new Uint8Array(data, 26),
  };
}

/** @param {ArrayBuffer} data @returns {Ack} */
export function readAck(data) {
  const view = new DataView(data);
  const points = view.getUint16(2, true);
  return {
    view,
    points,
    control: view.getUint32(12, true),
    chunk: view.getUint32(4, true),
    first: view.getUint32(8, true),
    frames: view.getUint16(20, true),
    kinds: new Uint8Array(data, 22, points),
    at: 22 + points,
  };
}

/** Where a point of an ack is in one of its frames, null when it is hidden. @param {Ack} ack @param {number} row @param {number} frame @returns {Place | null} */
export function placeIn(ack, row, frame) {
  const at = ack.at + (row * ack.frames + Math.min(Math.max(frame, 0), ack.frames - 1)) * 4;
  const x = ack.view.getInt16(at, true);
  return x === HIDDEN ? null : { x: x / UNITS, y: ack.view.getInt16(at + 2, true) / UNITS };
}

/** Points of an ack in one RGB frame, without the hidden ones. @param {Ack} ack @param {number} index of the frame */
export function pointsAt(ack, index) {
  /** @type {(Place & { kind: Kind })[]} */
  const points = [];
  for (let row = 0; row < ack.points; row++) {
    const place = placeIn(ack, row, index - ack.first);
    if (place) points.push({ ...place, kind: KINDS[ack.kinds[row]] });
  }
  return points;
}
