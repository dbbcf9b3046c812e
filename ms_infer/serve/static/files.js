// Pictures and videos that come in, recordings that go out.

/** @import { SayingName } from "./words.js" */
import { $, field, toast } from "./dom.js";
import { requestDraw } from "./draw.js";
import { keepOwn } from "./keep.js";
import { showPrompt } from "./looks.js";
import { showSource } from "./motion.js";
import { began, settings } from "./play.js";
import { state } from "./state.js";
import { forgetThing } from "./thing.js";
import { address, request, send } from "./wire.js";
import { say } from "./words.js";

const MIB = 2 ** 20;

/** @param {string[]} names */
export function showExamples(names) {
  const buttons = names.map((name) => {
    const one = Object.assign(document.createElement("button"), { title: name, onclick: () => pick(name) });
    one.append(Object.assign(new Image(), { src: address(`examples/${name}`), alt: name }));
    one.dataset.example = name;
    return one;
  });
  $("examples").replaceChildren(...buttons);
  pressed();
}

function pressed() {
  for (const one of /** @type {Iterable<HTMLElement>} */ ($("examples").children))
    one.setAttribute("aria-pressed", String(one.dataset.example === state.example));
}

/** Show an example before the stream has begun. @param {string} name */
export function showExample(name) {
  state.example = name;
  pressed();
  showPrompt(state.hello?.prompts?.[name] ?? "");
  const picture = Object.assign(new Image(), { src: address(`examples/${name}`) });
  picture.onload = () => {
    if (!state.frame) state.picture = picture;
    requestDraw();
  };
}

/** Begin with another picture. @param {string} name */
function pick(name) {
  state.example = name;
  state.own = null;
  keepOwn(null);
  state.plans = [];
  forgetThing();
  pressed();
  showPrompt(state.hello?.prompts?.[name] ?? "");
  send({ do: "start", example: name, ...settings() });
}

/** The first bytes of pictures and videos that the server reads. @param {Uint8Array} head @param {"image" | "video"} kind */
function readable(head, kind) {
  const text = String.fromCharCode(...head);
  if (kind === "video") return text.slice(4, 8) === "ftyp" || text.startsWith("\x1aE\xdf\xa3");
  return /^(\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8)/.test(text) || (text.startsWith("RIFF") && text.slice(8, 12) === "WEBP");
}

/** Look at a file before it is sent. @param {Blob} file @param {"image" | "video"} kind @param {string} name */
async function refused(file, kind, name) {
  const limit = state.hello?.[`${kind}_bytes`] ?? 0;
  if (file.size > limit) {
    say("too-big", { name, size: Math.ceil((file.size / MIB) * 10) / 10, limit: Math.floor(limit / MIB) });
    return true;
  }
  if (readable(new Uint8Array(await file.slice(0, 16).arrayBuffer()), kind)) return false;
  say(kind === "image" ? "no-picture" : "no-video", { name });
  return true;
}

/** Send bytes; the answer's content, null when it was not taken, which is then said. @param {string} what @param {Blob} file @param {string} name */
export async function post(what, file, name) {
  let answer;
  try {
    answer = await request(what, { method: "POST", body: file });
  } catch {
    say("failed", { name });
    return null;
  }
  try {
    const content = await answer.json();
    if (answer.ok) return content;
    toast(content.error);
  } catch {
    say("answer", { name, code: answer.status });
  }
  return null;
}

/** @param {Blob & { name?: string }} file */
export async function sendPicture(file) {
  const name = file.name ?? "The picture";
  if (await refused(file, "image", name)) return false;
  say("sending", { name });
  if (!(await post("image", file, name))) return false;
  Object.assign(state, { own: file, example: "", plans: [] });
  forgetThing();
  $("hint").classList.add("gone");
  pressed();
  await keepOwn(file);
  if ($("toast").dataset.said === "sending") $("toast").hidden = true;
  return true;
}

/** @param {File} file */
async function sendVideo(file) {
  if (await refused(file, "video", file.name)) return;
  say("sending", { name: file.name });
  if (!(await post(`video?loop=${field("loop").checked}`, file, file.name))) return;
  say("follows", { name: file.name });
  showSource(file);
  began();
}

/** Save what the server gives. @param {string} what @param {string} name */
export async function save(what, name) {
  try {
    const answer = await request(what);
    if (!answer.ok) return void toast((await answer.json()).error);
    const link = document.createElement("a");
    Object.assign(link, { href: URL.createObjectURL(await answer.blob()), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    return true;
  } catch {
    say("failed", { name });
  }
}

/** What a file input does with its file; the same one can be chosen again. @param {string} id @param {(file: File) => void} action */
export function onFile(id, action) {
  field(id).onchange = () => {
    const file = field(id).files?.[0];
    field(id).value = "";
    if (file) action(file);
  };
}

export function wireFiles() {
  onFile("picture", sendPicture);
  onFile("video", sendVideo);
  window.ondragover = (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  };
  window.ondragleave = () => document.body.classList.remove("dropping");
  window.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    const file = event.dataTransfer?.files[0];
    if (file && state.hello?.owner) file.type.startsWith("video/") ? sendVideo(file) : sendPicture(file);
  };
}
