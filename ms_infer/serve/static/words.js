// Every state of the page with the words that it shows; docs/reference/page.md lists them, and tests compare the two.

import { $, toast } from "./dom.js";

/** What the status line says. */
export const STATES = {
  connecting: "Connecting",
  loading: "The model is being loaded",
  ready: "Ready",
  running: "Live",
  resting: "Live · at rest, nothing moves",
  paused: "Paused · what you draw is played when you resume",
  stopped: "Stopped",
  recording: "Live · recording",
  slow: "Live · slow link, frames are left out",
  watching: "Watching",
  free: "Owner gone · the first to take over has it",
  lost: "Connection lost, trying again",
  proxy: "Something on the way answers instead of ms-serve ({code}), trying again",
  replaced: "Opened in another window; this one has stopped",
  "token-missing": "This address lacks its token: open the one that ms-serve printed",
  "token-wrong": "The token is wrong: open the address that ms-serve printed",
  full: "The server is full{line}",
  idle: "Ended: nothing happened for a long time",
  closing: "The server is closing; waiting for it to come back",
  ended: "Ended: {text}",
  refused: "{text}",
};

/** What is said once. */
export const SAYINGS = {
  back: "Back on the same stream",
  restarted: "The stream begins anew. Your picture was sent again",
  "back-later": "The path is taken back as soon as it has been played",
  "too-big": "{name} has {size} MiB; at most {limit} MiB can be sent",
  "no-picture": "{name} is no picture that can be read: choose a JPEG, PNG, WebP or GIF",
  "no-video": "{name} is no video that can be read: choose an MP4, MOV or WebM",
  answer: "Something on the way answered instead of ms-serve (HTTP {code}); {name} was not taken",
  failed: "Sending {name} failed: the connection broke. Choose it again",
  sending: "Sending {name}",
  codec: "The browser took the video decoder away; the picture comes again",
  clock: "This computer slept or its clock jumped; connected anew",
  cleared: "Points and paths are gone, and the picture is back",
  copied: "Whoever opens this link watches: it is copied",
  follows: "The points follow {name}",
  saved: "{name} goes on from here whenever you open it",
  resumed: "The stream goes on from {name}",
  nothing: "No thing was found there; the circle takes what is near",
  webcam: "The webcam cannot be used",
  took: "The stream is yours now",
};

/** @typedef {keyof typeof STATES} StateName @typedef {keyof typeof SAYINGS} SayingName */

/** @param {string} text @param {Record<string, string | number>} parts */
const filled = (text, parts) => text.replace(/{(\w+)}/g, (_, name) => String(parts[name] ?? ""));

/** Show a state. @param {StateName} name @param {string} more behind its words @param {Record<string, string | number>} [parts] */
export function tellState(name, more, parts = {}) {
  document.body.dataset.state = name;
  const text = filled(STATES[name], parts) + more;
  if ($("status").textContent !== text) $("status").textContent = text;
  const notice = $("notice");
  notice.hidden = document.body.dataset.mode !== "lost";
  /** @type {HTMLElement} */ (notice.firstElementChild).textContent = text;
}

/** Say something once. @param {SayingName} name @param {Record<string, string | number>} [parts] */
export function say(name, parts = {}) {
  $("toast").dataset.said = name;
  toast(filled(SAYINGS[name], parts));
}

/** Offer ways on, under the words. @param {Record<string, () => void>} ways words and what they do */
export function offer(ways) {
  const buttons = Object.entries(ways).map(([text, action]) => {
    const one = document.createElement("button");
    one.textContent = text;
    one.onclick = action;
    return one;
  });
  $("ways").replaceChildren(...buttons);
}
