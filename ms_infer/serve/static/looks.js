// Looks as chips, words offered while typing, and those that the model does not know.

import { $, field } from "./dom.js";
import { did } from "./history.js";
import { live, state } from "./state.js";
import { send } from "./wire.js";

const PLAIN = "plain", MOST = 6;
const SHORT = 2; // letters: "a" and "of" say nothing, and nobody asks whether they are known
/** The prompt in force. */
let prompt = "";

/** @param {string} text */
const wordsOf = (text) => /** @type {string[]} */ (text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []);
const looks = () => (state.hello?.words ?? []).filter((word) => word !== PLAIN);
const known = () => state.hello?.vocabulary ?? [];

/** A prompt with another look; "plain" has none. @param {string} text @param {string} look */
function withLook(text, look) {
  const parts = text.split(",").map((part) => part.trim()).filter((part) => part && !looks().includes(part.toLowerCase()));
  return [...(look === PLAIN ? [] : [look]), ...parts].join(", ");
}

/** Chunks over which a prompt comes. */
const over = () => Number(field("over").value);

function tellOver() {
  const { chunk_frames: frames = 12, fps = 16 } = state.hello ?? {};
  $("over-out").textContent = over() === 1 ? "at once" : `within ${((over() * frames) / fps).toFixed(1)} s`;
}

/** Show a prompt that is in force. @param {string} text */
export function showPrompt(text) {
  prompt = text;
  field("text").value = text;
  tellWords();
}

/** @param {string} text */
function put(text) {
  showPrompt(text);
  if (live()) send({ do: "prompt", text, over: over() });
}

/** Change the prompt from now on. @param {string} text */
function change(text) {
  const before = prompt;
  if (text === before) return;
  put(text);
  did({ undo: () => put(before), redo: () => put(text) });
}

/** Press the look in force, offer words, name the unknown ones. */
function tellWords() {
  const text = field("text").value, words = wordsOf(text);
  const look = looks().find((one) => words.includes(one)) ?? PLAIN;
  for (const one of /** @type {Iterable<HTMLElement>} */ ($("looks").children))
    one.setAttribute("aria-pressed", String(one.textContent === look));
  const typing = document.activeElement === $("text");
  const given = wordsOf(state.hello?.prompts?.[state.example] ?? ""); // an example's own words are no mistake of anybody's
  const strange = known().length ? words.filter((word) => word.length > SHORT && !known().includes(word) && !given.includes(word)) : [];
  const begun = typing && !text.endsWith(" ") ? words[words.length - 1] ?? "" : "";
  const offered = begun ? known().filter((word) => word.startsWith(begun) && word !== begun && !/\d/.test(word)).slice(0, MOST) : [];
  $("words").hidden = !offered.length;
  $("words").replaceChildren(...offered.map((word) => chip(word, () => complete(begun, word))));
  const unfinished = offered.length ? strange.filter((word) => word !== begun) : strange;
  $("unknown").hidden = !unfinished.length;
  $("unknown").textContent = `The model does not know ${unfinished.map((word) => `“${word}”`).join(", ")}`;
}

/** @param {string} begun @param {string} word */
function complete(begun, word) {
  const { value } = field("text");
  field("text").value = `${value.slice(0, value.length - begun.length)}${word} `;
  field("text").focus();
  tellWords();
}

/** @param {string} text @param {() => void} action */
function chip(text, action) {
  const one = document.createElement("button");
  Object.assign(one, { type: "button", textContent: text, onclick: action });
  one.onpointerdown = (event) => event.preventDefault(); // the field keeps the focus
  return one;
}

/** The model's looks. */
export function showLooks() {
  const chips = (state.hello?.words ?? []).map((look) => chip(look, () => change(withLook(field("text").value, look))));
  $("looks").replaceChildren(...chips);
  tellOver();
  showPrompt(state.hello?.prompt ?? "");
}

export function wireLooks() {
  field("over").oninput = tellOver;
  field("text").oninput = tellWords;
  field("text").onblur = () => setTimeout(tellWords, 150);
  $("prompt").onsubmit = (event) => {
    event.preventDefault();
    change(field("text").value.trim());
    tellWords();
  };
}
