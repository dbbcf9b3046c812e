// The one state object of the page, and what its parts are.

/**
 * @typedef {{ x: number, y: number }} Place in shares of the picture, from its upper left corner
 * @typedef {"grid" | "drag" | "static" | "path"} Kind of a point
 * @typedef {"drag" | "static" | "path" | "brush"} Tool
 * @typedef {"waiting" | "running" | "paused" | "stopped" | "lost"} Mode
 *
 * @typedef {object} Hello what the server says at first (docs/reference/protocol.md)
 * @property {string} session
 * @property {string} key
 * @property {boolean} owner
 * @property {Mode} state
 * @property {string} model
 * @property {string} engine
 * @property {number} width
 * @property {number} height
 * @property {number} fps
 * @property {string} prompt
 * @property {string[]} words
 * @property {string[]} examples
 * @property {number} last_control
 * @property {number} image_bytes
 * @property {number} video_bytes
 *
 * @typedef {object} Frame head of a frame message
 * @property {number} codec
 * @property {number} width of the picture, half of the stream's on a slow link
 * @property {number} chunk
 * @property {number} index
 * @property {number} control
 * @property {Uint8Array<ArrayBuffer>} bytes
 *
 * @typedef {object} Ack what a chunk was made with
 * @property {DataView} view
 * @property {number} points
 * @property {number} frames
 * @property {Uint8Array} kinds
 * @property {number} first RGB frame at which the chunk begins
 * @property {number} at byte at which the places begin
 *
 * @typedef {object} Pointer one that is down
 * @property {number} number
 * @property {number} x
 * @property {number} y
 * @property {Tool} tool
 * @property {[number, number][]} points where it was
 * @property {number} since
 *
 * @typedef {CanvasImageSource & { close?: () => void }} Picture
 */

export const state = {
  /** @type {WebSocket | null} */
  socket: null,
  /** @type {Hello | null} */
  hello: null,
  /** @type {Mode} */
  mode: "lost",
  retry: 500,
  ended: false,
  watching: false,
  /** @type {Picture | null} newest frame, or the example before the first one */
  picture: null,
  /** @type {Frame | null} what is shown */
  frame: null,
  /** @type {Map<number, Ack>} by chunk */
  acks: new Map(),
  /** @type {Tool} */
  tool: "drag",
  marks: true,
  grid: true,
  /** @type {Map<number, Pointer>} by the browser's pointer id */
  pointers: new Map(),
  next: 1, // number of the next pointer
  control: 0,
  /** @type {Map<number, number>} when a control was sent that no frame shows yet */
  sent: new Map(),
  /** @type {number[]} milliseconds */
  latencies: [],
  /** @type {(Place & { kind: Kind })[]} placed points, until an ack shows them */
  placed: [],
  /** for the keyboard */
  cross: { x: 0.5, y: 0.5, shown: false },
  stick: { x: 0, y: 0, zoom: 0, roll: 0 },
  /** @type {number[]} when frames were shown */
  shown: [],
  lost: 0,
  example: "",
};
Object.assign(window, { page: state }); // for the curious, and for tests
