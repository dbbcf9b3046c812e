// A link to watch, a stream kept in a file and opened again, and the same moment twice side by side.

import { $, button, toast } from "./dom.js";
import { onFile, post, save } from "./files.js";
import { state } from "./state.js";
import { send, token } from "./wire.js";
import { say } from "./words.js";

/** Address of this page with other parameters. @param {Record<string, string>} parameters */
function addressWith(parameters) {
  const url = new URL(location.pathname, location.href);
  url.search = new URLSearchParams({ ...(token ? { token } : {}), ...parameters }).toString();
  return url.href;
}

async function copyLink() {
  const link = addressWith({ watch: state.hello?.session ?? "" });
  try {
    await navigator.clipboard.writeText(link);
    say("copied");
  } catch {
    toast(link); // no clipboard without https: it can be read, at least
  }
}

/** A second future beside this one; once more closes it. */
function fork() {
  const other = document.querySelector("#futures iframe");
  $("futures").classList.toggle("two", !other);
  $("fork").setAttribute("aria-pressed", String(!other));
  if (other) return other.remove();
  const frame = document.createElement("iframe");
  frame.title = "Another future of the picture";
  frame.allow = "clipboard-write";
  frame.src = addressWith({ inner: "1" }) + `#${state.hello?.session}.${state.hello?.key}`;
  $("futures").append(frame);
}

async function keep() {
  const name = `${state.hello?.model}-${new Date().toISOString().slice(0, 16).replace(/[T:]/g, "-")}.msstate`;
  if (await save("snapshot", name)) say("saved", { name });
}

/** @param {File} file */
async function resume(file) {
  if (await post("snapshot", file, file.name)) say("resumed", { name: file.name });
}

export function wireShare() {
  button("take").onclick = () => void send({ do: "take" });
  button("link").onclick = copyLink;
  button("fork").onclick = fork;
  button("save").onclick = keep;
  onFile("resume", resume);
}
