// The one state object of the page, and what its parts are.

/**
 * @typedef {{ x: number, y: number }} Place in shares of the picture, from its upper left corner
 * @typedef {"grid" | "drag" | "static" | "path"} Kind of a point
 * @typedef {"thing" | "drag" | "static" | "path" | "brush" | "camera"} Tool
 * @typedef {"waiting" | "running" | "paused" | "stopped" | "lost"} Mode what the stream does; lost: there is none
 * @typedef {[number, number]} Pair x and y
 *
 * @typedef {object} Hello what the server says at first (docs/reference/protocol.md)
 * @property {string} session
 * @property {string} key
 * @property {string} route
 * @property {boolean} owner
 * @property {Mode} state
 * @property {boolean} [resting]
 * @property {string} model
 * @property {string} engine
 * @property {number} width
 * @property {number} height
 * @property {number} fps
 * @property {number} chunk_frames RGB frames of a chunk
 * @property {string} prompt
 * @property {string[]} words looks
 * @property {string[]} vocabulary every word that the model knows; empty where it reads any
 * @property {Record<string, string>} prompts of the examples
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
 * @property {number} chunk
 * @property {number} control
 * @property {number} first RGB frame at which the chunk begins
 * @property {number} at byte at which the places begin
 *
 * @typedef {object} Thing what a click picked, where it is now
 * @property {Pair[][]} outline closed polygons
 * @property {Pair[]} points
 * @property {Pair[]} add places that are part of it
 * @property {Pair[]} omit places that are not
 * @property {boolean} picked by a click, else it is only proposed
 *
 * @typedef {object} Pointer one that is down
 * @property {number} number
 * @property {number} x
 * @property {number} y
 * @property {Place} start
 * @property {Tool | "more" | "less"} tool
 * @property {Pair[]} points where it was
 * @property {number} since
 * @property {Thing | null} thing that it takes along
 * @property {"waits" | "ready" | "sent"} hold whether the server knows that it is down
 * @property {[number, number, number][]} moves not sent yet: time, x, y
 * @property {Place[]} caught points that it takes along, as they were
 * @property {{ chunk: number, row: number, origin: Place } | null} row of the point at it in the newest ack, and where it began
 *
 * @typedef {object} Plan something placed or drawn, until it is played
 * @property {"path" | "static" | "brush"} kind
 * @property {Pair[]} points
 * @property {number} seconds
 * @property {number} radius
 * @property {Pair[] | undefined} thing
 * @property {number} sent the control that it went with, 0 while it waits
 * @property {number | null} begins RGB frame at which it begins to be played
 * @property {Pair[] | null} back what stands for what goes along it, where that is taken back as soon as it has been played
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
  ended: false, // the server said goodbye: no coming back by itself
  watching: "", // the session to watch, or "any"
  resting: false,
  free: false, // whoever had the stream has gone: a watcher may take it over
  slow: false,
  recording: 0, // when it began
  transfer: false, // the points follow a video
  /** @type {Picture | null} newest frame, or the picture before the first one */
  picture: null,
  /** @type {Frame | null} what is shown */
  frame: null,
  /** @type {Map<number, Ack>} by chunk */
  acks: new Map(),
  /** @type {Tool} */
  tool: "thing",
  /** @type {"" | "more" | "less"} what a press corrects */
  correcting: "",
  /** @type {Thing | null} */
  thing: null,
  marks: true,
  grid: true,
  /** @type {Map<number, Pointer>} by the browser's pointer id */
  pointers: new Map(),
  /** @type {Place | null} a mouse that is over the picture */
  hover: null,
  next: 1, // number of the next pointer
  control: 0,
  /** @type {Map<number, number>} when a control was sent that no frame shows yet */
  sent: new Map(),
  /** @type {number[]} milliseconds */
  latencies: [],
  /** @type {Plan[]} */
  plans: [],
  /** for the keyboard */
  cross: { x: 0.5, y: 0.5, shown: false },
  /** @type {number[]} when frames were shown */
  shown: [],
  lost: 0,
  example: "",
  /** @type {Blob & { name?: string } | null} a picture of one's own */
  own: null,
};
Object.assign(window, { page: state }); // for the curious, and for tests

/** Whether the stream is there to be acted upon. */
export const live = () => state.mode === "running" || state.mode === "paused";
