// Pictures and videos that come in, recordings that go out.

import { $, field, toast } from "./dom.js";
import { requestDraw } from "./draw.js";
import { settings, start } from "./play.js";
import { state } from "./state.js";
import { address, request, send } from "./wire.js";

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
  const picture = Object.assign(new Image(), { src: address(`examples/${name}`) });
  picture.onload = () => {
    if (!state.frame) state.picture = picture;
    requestDraw();
  };
}

/** @param {string} name */
function pick(name) {
  state.example = name;
  pressed();
  send({ do: "start", example: name, ...settings() });
}

/** @param {File} file @param {"image" | "video"} kind */
async function upload(file, kind) {
  const limit = state.hello?.[`${kind}_bytes`] ?? 0;
  if (file.size > limit) return toast(`The file is larger than ${Math.round(limit / 2 ** 20)} MiB`);
  toast(`Sending ${file.name}`);
  const answer = await request(kind, { method: "POST", body: file });
  const content = await answer.json();
  toast(answer.ok ? (kind === "video" ? "The points follow the video" : "") : content.error);
  if (!answer.ok) return;
  if (kind === "image") {
    state.example = "";
    pressed();
  } else if (["waiting", "stopped"].includes(state.mode)) start();
}

/** Save the recording. */
export async function download() {
  const answer = await request("recording");
  if (!answer.ok) return toast((await answer.json()).error);
  const link = document.createElement("a");
  Object.assign(link, { href: URL.createObjectURL(await answer.blob()), download: "motion.mp4" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

export function wireFiles() {
  for (const [id, kind] of /** @type {[string, "image" | "video"][]} */ ([["picture", "image"], ["video", "video"]]))
    field(id).onchange = () => {
      const file = field(id).files?.[0];
      if (file) upload(file, kind);
    };
  window.ondragover = (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  };
  window.ondragleave = () => document.body.classList.remove("dropping");
  window.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    const file = event.dataTransfer?.files[0];
    if (file && state.hello?.owner) upload(file, file.type.startsWith("video/") ? "video" : "image");
  };
}
