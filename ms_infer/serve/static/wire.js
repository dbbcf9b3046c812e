// The WebSocket: joins, sends controls, hands messages to whoever asked for their type.

import { packControl, packSeen, readAck, readFrame, readJson, readType, Type, VERSION } from "./protocol.js";
import { state } from "./state.js";

const parameters = new URLSearchParams(location.search);
export const token = parameters.get("token") ?? "";
/** Whether this page is one of two futures, in a frame. */
export const inner = parameters.has("inner");
state.watching = parameters.get("watch") ?? "";
const query = token ? `?token=${encodeURIComponent(token)}` : "";

/** Address of something on this server, with the token. @param {string} path */
export const address = (path) => path + query;

/** @type {Record<number, (content: any) => void>} */
const handlers = {};
/** What this browser can show. */
const codecs = ["jpeg", "webp"];
if ("VideoDecoder" in window)
  VideoDecoder.isConfigSupported({ codec: "avc1.42e01f" }).then(({ supported }) => supported && codecs.push("h264"));
let received = 0; // messages on this connection
/** @type {(greeted: boolean, code: number) => void} */
let onLost = () => {};
/** @type {{ session?: string, key?: string }} */
let mine = JSON.parse((!inner && sessionStorage.getItem("session")) || "{}");
/** The moment that this page forks, until it has. */
let forks = inner ? location.hash.slice(1).split(".") : [];

/** @param {number} type @param {(content: any) => void} handler */
export function onType(type, handler) {
  handlers[type] = handler;
}

/** Connect for ever. @param {(greeted: boolean, code: number) => void} handler what happens when the connection is gone, or did not come about */
export function connect(handler) {
  onLost = handler;
  open();
}

function open() {
  const socket = new WebSocket(new URL(`ws${query}`, location.href.replace(/^http/, "ws")));
  let greeted = false;
  received = 0;
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    greeted = true;
    join();
  };
  socket.onmessage = receive;
  socket.onclose = ({ code }) => {
    if (state.socket !== socket) return;
    onLost(greeted, code);
    if (!state.ended) setTimeout(() => state.socket === socket && !state.ended && open(), (state.retry = Math.min(state.retry * 1.6, 5000)));
  };
  state.socket = socket;
}

/** Leave this connection and come back at once. */
export function reconnect() {
  const before = state.socket;
  state.ended = false;
  open();
  before?.close();
}

export function join() {
  const [session, key] = forks;
  const known = session ? { session, key, fork: true } : mine;
  const watched = state.watching === "any" ? {} : { session: state.watching };
  send({ do: "join", version: VERSION, codecs, ...(state.watching ? { watch: true, ...watched } : known) });
}

/** Remember a session to come back to; null forgets it. @param {{ session: string, key: string } | null} one */
export function remember(one) {
  mine = one ?? {};
  forks = [];
  if (!inner) sessionStorage.setItem("session", JSON.stringify(mine));
}

/** The session to come back to, of before the page was reloaded too. */
export const remembered = () => mine.session;

export const connected = () => state.socket?.readyState === WebSocket.OPEN;

/** Send a control; returns its number, 0 when nothing could be sent. @param {{ do: string, [field: string]: any }} control */
export function send(control) {
  if (!connected()) return 0;
  if (control.do !== "join") state.control += 1;
  state.socket?.send(packControl({ id: state.control, t: performance.now(), ...control }));
  return state.control;
}

/** @param {MessageEvent<ArrayBuffer>} event */
function receive({ data }) {
  received += 1;
  if (connected()) state.socket?.send(packSeen(received)); // the next frame leaves when the server knows of this one
  const type = readType(data);
  const handler = handlers[type];
  if (!handler) return; // an older page keeps working
  if (type === Type.FRAME) handler(readFrame(data));
  else if (type === Type.ACK) handler(readAck(data));
  else handler(readJson(data));
}

/** Ask this session's part of the server. @param {string} what @param {RequestInit} [options] */
export function request(what, options) {
  const { key = "", route = "" } = state.hello ?? {};
  const headers = { "x-session-key": key, "x-session-id": route, "x-token": token };
  return fetch(`api/sessions/${state.hello?.session}/${what}`, { ...options, headers });
}
