// The page: pointer events out, frames in. Solid marks are what the server applied, the hollow ring is the pointer.
const VERSION = 1, HELLO = 1, CONTROL = 2, FRAME = 3, ACK = 4, STATS = 5, ERROR = 6, BYE = 7, WEBCAM = 8;
const UNITS = 8192, HIDDEN = -32768;
const KINDS = ["grid", "drag", "static", "path"];
const COLOURS = { drag: "rgb(40 200 80)", static: "rgb(230 50 50)", path: "rgb(60 120 255)" };
const $ = (id) => document.getElementById(id);
const canvas = $("canvas"), context = canvas.getContext("2d");
const token = new URLSearchParams(location.search).get("token") ?? "";

const state = {
  socket: null, hello: null, mode: "lost", // waiting, running, paused, stopped, lost
  retry: 500, ended: false, watching: false,
  picture: null, // newest frame, or the example before the first one
  frame: null, // {chunk, index, control} of it
  acks: new Map(), // chunk -> what it was made with
  tool: "drag", marks: true, grid: true,
  pointers: new Map(), // pointerId -> {number, x, y, tool, points, since}
  next: 1, // number of the next pointer
  events: [], flushing: false, // pointer events on their way
  control: 0, sent: new Map(), latencies: [],
  placed: [], // static and brushed points of this stroke, until an ack shows them
  cross: { x: 0.5, y: 0.5, shown: false }, // for the keyboard
  stick: { x: 0, y: 0, zoom: 0, roll: 0 }, keys: new Set(),
  shown: [], lost: 0, decoding: false, waiting: null, decoder: null, queued: [],
  webcam: null, drawing: false, example: "",
};
window.page = state; // for the curious, and for tests

// ---- messages

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/ws${token ? `?token=${encodeURIComponent(token)}` : ""}`);
  socket.binaryType = "arraybuffer";
  socket.onopen = join;
  socket.onmessage = onMessage;
  socket.onclose = () => {
    if (state.socket !== socket) return;
    setMode("lost", state.ended ? "" : "Connection lost, trying again");
    if (!state.ended) setTimeout(connect, (state.retry = Math.min(state.retry * 1.6, 5000)));
  };
  state.socket = socket;
}

function join() {
  const known = JSON.parse(sessionStorage.getItem("session") ?? "{}");
  send({ do: "join", version: VERSION, watch: state.watching, ...(state.watching ? {} : known) });
}

function send(control) {
  if (state.socket?.readyState !== WebSocket.OPEN) return 0;
  if (control.do !== "join") state.control += 1;
  const text = JSON.stringify({ id: state.control, t: performance.now(), ...control });
  state.socket.send(new Blob([Uint8Array.of(CONTROL), text]));
  return state.control;
}

function onMessage({ data }) {
  const type = new DataView(data).getUint8(0);
  if (type === FRAME) return onFrame(data);
  if (type === ACK) return onAck(new DataView(data), data);
  if (![HELLO, STATS, ERROR, BYE].includes(type)) return; // an older page keeps working
  const content = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 1)));
  if (type === HELLO) onHello(content);
  if (type === STATS) onStats(content);
  if (type === ERROR) onError(content);
  if (type === BYE) {
    state.ended = ["replaced", "version", "rate", "garbage"].includes(content.reason);
    if (!state.ended) sessionStorage.removeItem("session");
    setMode("lost", `Ended: ${content.text}`);
  }
}

function onHello(hello) {
  Object.assign(state, { hello, retry: 500, control: Math.max(state.control, hello.last_control) });
  state.sent.clear();
  state.acks.clear();
  state.decoder?.close();
  state.decoder = null;
  if (hello.owner) sessionStorage.setItem("session", JSON.stringify({ session: hello.session, key: hello.key }));
  $("watch").hidden = true;
  for (const element of document.querySelectorAll("#bar button, #panel input, #panel button"))
    element.disabled = !hello.owner;
  document.documentElement.style.setProperty("--aspect", hello.width / hello.height);
  $("words").replaceChildren(...hello.words.map((word) => new Option(word)));
  $("text").value = hello.prompt;
  showExamples(hello.examples);
  setMode(hello.state);
  if (!state.picture && hello.state === "waiting") showExample(hello.examples[0]);
  resize();
}

function onStats(stats) {
  if (stats.state && stats.state !== state.mode) setMode(stats.state);
  if (stats.chunk_ms) $("chunk").textContent = `${Math.round(stats.chunk_ms)} ms`;
  if (stats.dropped !== undefined) $("dropped").textContent = stats.dropped + state.lost;
  if (stats.recording !== undefined) {
    $("record").setAttribute("aria-pressed", stats.recording);
    if (stats.recorded && !stats.recording) download();
  }
}

function onError(error) {
  if (error.code !== "refused") return toast(error.text);
  setMode("lost", error.text);
  $("watch").hidden = !error.watch;
  setTimeout(() => state.socket?.readyState === WebSocket.OPEN && state.mode === "lost" && join(), 3000);
}

function onAck(view, data) {
  const points = view.getUint16(2, true), frames = view.getUint16(20, true);
  const kinds = new Uint8Array(data, 22, points);
  const ack = { view, points, frames, kinds, first: view.getUint32(8, true), at: 22 + points };
  state.acks.set(view.getUint32(4, true), ack);
  if (state.acks.size > 4) state.acks.delete(state.acks.keys().next().value);
  state.placed = [];
}

function onFrame(data) {
  const view = new DataView(data);
  const frame = { codec: view.getUint8(1), chunk: view.getUint32(6, true), index: view.getUint32(10, true),
    control: view.getUint32(14, true), bytes: new Uint8Array(data, 26) };
  if (frame.codec !== 0) return decodeVideo(frame);
  if (state.waiting) state.lost += 1;
  state.waiting = frame; // newest wins
  if (!state.decoding) decodePicture();
}

async function decodePicture() {
  state.decoding = true;
  while (state.waiting) {
    const frame = state.waiting;
    state.waiting = null;
    try {
      show(await createImageBitmap(new Blob([frame.bytes], { type: "image/jpeg" })), frame);
    } catch {
      state.lost += 1;
    }
  }
  state.decoding = false;
}

function decodeVideo(frame) {
  const key = frame.codec === 2;
  if (!state.decoder && key) {
    let at = 0; // the sequence parameter set names profile and level
    const here = () => frame.bytes[at + 2] === 1 && !(frame.bytes[at] | frame.bytes[at + 1]) && (frame.bytes[at + 3] & 31) === 7;
    while (at < frame.bytes.length && !here()) at++;
    const codec = "avc1." + [4, 5, 6].map((i) => frame.bytes[at + i].toString(16).padStart(2, "0")).join("");
    const output = (picture) => show(picture, state.queued.shift());
    state.decoder = new VideoDecoder({ output, error: () => (state.decoder = null) });
    state.decoder.configure({ codec, optimizeForLatency: true });
    state.queued = [];
  }
  if (!state.decoder) return;
  state.queued.push(frame);
  state.decoder.decode(new EncodedVideoChunk({ type: key ? "key" : "delta", timestamp: frame.index, data: frame.bytes }));
}

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
  requestDraw();
}

// ---- drawing

function requestDraw() {
  if (state.drawing) return;
  state.drawing = true;
  requestAnimationFrame(draw);
}

function draw() {
  state.drawing = false;
  const { width, height } = canvas;
  context.imageSmoothingQuality = "high";
  if (state.picture) context.drawImage(state.picture, 0, 0, width, height);
  const size = Math.max(5, Math.min(width, height) / 75);
  if (state.marks) for (const point of applied()) mark(point.x * width, point.y * height, point.kind, size);
  for (const point of state.placed) mark(point.x * width, point.y * height, point.kind, size);
  for (const pointer of state.pointers.values()) {
    if (pointer.tool === "path") line(pointer.points, size);
    ring(pointer.x * width, pointer.y * height, size * 1.9);
  }
  if (state.cross.shown) ring(state.cross.x * width, state.cross.y * height, size * 1.9, true);
}

function applied() {
  const ack = state.frame && state.acks.get(state.frame.chunk);
  if (!ack) return state.frame ? [] : preview();
  const index = Math.min(Math.max(state.frame.index - ack.first, 0), ack.frames - 1), points = [];
  for (let i = 0; i < ack.points; i++) {
    const at = ack.at + (i * ack.frames + index) * 4, x = ack.view.getInt16(at, true);
    if (x === HIDDEN || (ack.kinds[i] === 0 && !state.grid)) continue;
    points.push({ x: x / UNITS, y: ack.view.getInt16(at + 2, true) / UNITS, kind: KINDS[ack.kinds[i]] });
  }
  return points.sort((a, b) => KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind));
}

function preview() {
  const side = Number($("density").value), points = [];
  for (let i = 0; state.grid && i < side * side; i++)
    points.push({ x: ((i % side) + 0.5) / side, y: (Math.floor(i / side) + 0.5) / side, kind: "grid" });
  return points;
}

function mark(x, y, kind, size) {
  context.beginPath();
  if (kind === "grid") {
    context.arc(x, y, size * 0.28, 0, 7);
    context.fillStyle = "rgb(255 255 255 / 60%)";
    return context.fill();
  }
  if (kind === "static") context.rect(x - size * 0.85, y - size * 0.85, size * 1.7, size * 1.7);
  else if (kind === "path") [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]].forEach(([dx, dy]) => context.lineTo(x + dx * size, y + dy * size));
  else context.arc(x, y, size * 0.8, 0, 7);
  context.closePath();
  context.fillStyle = COLOURS[kind];
  context.fill();
  context.lineWidth = Math.max(1.5, size / 5);
  context.strokeStyle = "white";
  context.stroke();
}

function ring(x, y, radius, cross = false) {
  for (const [colour, width] of [["rgb(0 0 0 / 55%)", 4], ["white", 2]]) {
    context.beginPath();
    context.arc(x, y, radius, 0, 7);
    if (cross) for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + dx * radius * 0.4, y + dy * radius * 0.4);
      context.lineTo(x + dx * radius, y + dy * radius);
    }
    Object.assign(context, { strokeStyle: colour, lineWidth: width });
    context.stroke();
  }
}

function line(points, size) {
  for (const [colour, width] of [["white", 0.8], [COLOURS.path, 0.5]]) {
    context.beginPath();
    for (const [x, y] of points) context.lineTo(x * canvas.width, y * canvas.height);
    Object.assign(context, { strokeStyle: colour, lineWidth: size * width, lineCap: "round", lineJoin: "round" });
    context.stroke();
  }
}

function resize() {
  const { width, height } = canvas.getBoundingClientRect(), scale = Math.min(devicePixelRatio || 1, 2);
  if (width) Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
  requestDraw();
}

// ---- pointers

function place(event) {
  const box = canvas.getBoundingClientRect(), limit = (value) => Math.min(Math.max(value, -0.5), 1.5);
  return { x: limit((event.clientX - box.left) / box.width), y: limit((event.clientY - box.top) / box.height) };
}

function radius() {
  return Number($("radius").value) / 100;
}

function note(pointer, phase) {
  state.events.push([pointer.number, phase, performance.now(), pointer.x, pointer.y]);
  if (phase !== "move" || state.events.length > 60) return flush();
  if (!state.flushing) setTimeout(flush, 16);
  state.flushing = true;
}

function flush() {
  state.flushing = false;
  const events = state.events.splice(0);
  if (events.length) state.sent.set(send({ do: "pointers", events, radius: radius() }), events[0][2]);
  if (state.sent.size > 500) state.sent.clear();
}

function began() {
  $("hint").classList.add("gone");
  if (["waiting", "stopped"].includes(state.mode)) start();
}

canvas.addEventListener("pointerdown", (event) => {
  if (!state.hello?.owner || event.button > 0) return;
  canvas.setPointerCapture(event.pointerId);
  state.cross.shown = false;
  const at = place(event);
  const pointer = { ...at, number: state.next++, tool: state.tool, points: [[at.x, at.y]], since: performance.now() };
  state.pointers.set(event.pointerId, pointer);
  if (state.tool === "drag") {
    began();
    note(pointer, "down");
  } else if (state.tool !== "path") paint(pointer);
  requestDraw();
});

canvas.addEventListener("pointermove", (event) => {
  const pointer = state.pointers.get(event.pointerId);
  if (!pointer) return;
  Object.assign(pointer, place(event));
  const [x, y] = pointer.points.at(-1), apart = Math.hypot(pointer.x - x, pointer.y - y);
  if (pointer.tool === "drag") note(pointer, "move");
  else if (apart > (pointer.tool === "path" ? 0.012 : 0.06) && pointer.points.length < 256) {
    pointer.points.push([pointer.x, pointer.y]);
    if (pointer.tool !== "path") paint(pointer);
  }
  requestDraw();
});

for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => {
  const pointer = state.pointers.get(event.pointerId);
  state.pointers.delete(event.pointerId);
  if (pointer?.tool === "drag") note(pointer, "up");
  if (pointer?.tool === "path" && pointer.points.length > 1) {
    began();
    const seconds = Math.min(Math.max((performance.now() - pointer.since) / 1000, 0.8), 20);
    send({ do: "path", points: pointer.points, seconds, radius: radius() });
  }
  requestDraw();
});

function paint(pointer) {
  const [x, y] = pointer.points.at(-1);
  send({ do: pointer.tool, points: [[x, y]] });
  state.placed.push({ x, y, kind: pointer.tool === "static" ? "static" : "drag" });
}

// ---- what buttons and keys do

function setMode(mode, text) {
  state.mode = document.body.dataset.state = mode;
  const words = { waiting: "Ready", running: "Live", paused: "Paused", stopped: "Stopped", lost: "Connecting" };
  const about = state.hello ? ` · ${state.hello.model} ${state.hello.width}×${state.hello.height}` : "";
  $("status").textContent = text || words[mode] + (mode === "lost" ? "" : about + (state.hello.owner ? "" : " · watching"));
  $("status").title = state.hello?.engine ?? "";
  $("play").textContent = mode === "running" || mode === "paused" ? "Stop" : "Start";
  $("pause").textContent = mode === "paused" ? "Resume" : "Pause";
  $("pause").disabled = !state.hello?.owner || !["running", "paused"].includes(mode);
  $("badge").hidden = !["paused", "stopped"].includes(mode);
  $("badge").textContent = words[mode] ?? "";
  requestDraw();
}

const start = () => send({ do: "start", seed: Number($("seed").value) || 0, prompt: $("text").value });
const toggle = () => (["running", "paused"].includes(state.mode) ? send({ do: "stop" }) : start());
const pause = () => send({ do: state.mode === "paused" ? "resume" : "pause" });
const clear = () => send({ do: "clear" });

function chooseTool(name) {
  state.tool = name;
  for (const button of document.querySelectorAll("[data-tool]"))
    button.setAttribute("aria-checked", button.dataset.tool === name);
}

function showExamples(names) {
  const buttons = names.map((name) => {
    const button = Object.assign(document.createElement("button"), { title: name, onclick: () => pick(name) });
    button.append(Object.assign(new Image(), { src: example(name), alt: name }));
    button.dataset.example = name;
    return button;
  });
  $("examples").replaceChildren(...buttons);
  pressed();
}

const example = (name) => `examples/${name}${token ? `?token=${encodeURIComponent(token)}` : ""}`;

function pressed() {
  for (const button of $("examples").children) button.setAttribute("aria-pressed", button.dataset.example === state.example);
}

function showExample(name) {
  state.example = name;
  pressed();
  const picture = Object.assign(new Image(), { src: example(name) });
  picture.onload = () => {
    if (!state.frame) state.picture = picture;
    requestDraw();
  };
}

function pick(name) {
  state.example = name;
  pressed();
  send({ do: "start", example: name, seed: Number($("seed").value) || 0, prompt: $("text").value });
}

async function upload(file, kind) {
  const limit = state.hello[`${kind}_bytes`];
  if (file.size > limit) return toast(`The file is larger than ${Math.round(limit / 2 ** 20)} MiB`);
  toast(`Sending ${file.name}`);
  const answer = await request(kind, { method: "POST", body: file });
  const content = await answer.json();
  toast(answer.ok ? (kind === "video" ? "The points follow the video" : "") : content.error);
  if (!answer.ok) return;
  if (kind === "image") [state.example] = [""], pressed();
  else if (["waiting", "stopped"].includes(state.mode)) start();
}

const request = (what, options) => fetch(`api/sessions/${state.hello.session}/${what}`, { ...options,
  headers: { "x-session-key": state.hello.key, "x-token": token } });

async function download() {
  const answer = await request("recording");
  if (!answer.ok) return toast((await answer.json()).error);
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(await answer.blob()), download: "motion.mp4" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = !text;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => ($("toast").hidden = true), 5000);
}

function moveCamera(change) {
  Object.assign(state.stick, change);
  $("pad").firstElementChild.style.translate = `${state.stick.x * 30}px ${state.stick.y * 30}px`;
  if (Object.values(state.stick).some(Boolean)) began();
  send({ do: "camera", ...state.stick });
}

async function toggleWebcam() {
  if (state.webcam) {
    state.webcam.getTracks().forEach((track) => track.stop());
    state.webcam = null;
  } else {
    try {
      state.webcam = await navigator.mediaDevices.getUserMedia({ video: { width: 320, height: 240 } });
    } catch {
      return toast("The webcam cannot be used");
    }
  }
  $("webcam").setAttribute("aria-pressed", Boolean(state.webcam));
  send({ do: "webcam", on: Boolean(state.webcam) });
  if (!state.webcam) return;
  began();
  const video = Object.assign(document.createElement("video"), { srcObject: state.webcam, muted: true });
  const small = Object.assign(document.createElement("canvas"), { width: 160, height: 120 }), pen = small.getContext("2d");
  pen.setTransform(-1, 0, 0, 1, 160, 0); // like a mirror
  await video.play();
  const timer = setInterval(() => {
    if (!state.webcam) return clearInterval(timer);
    pen.drawImage(video, 0, 0, 160, 120);
    small.toBlob((blob) => blob && state.socket?.send(new Blob([Uint8Array.of(WEBCAM), blob])), "image/jpeg", 0.7);
  }, 80);
}

const KEYS = { Enter: toggle, " ": pause, r: () => send({ do: "reset" }), c: clear, "?": () => $("help").showModal(),
  v: () => chooseTool("drag"), s: () => chooseTool("static"), d: () => chooseTool("path"), b: () => chooseTool("brush"),
  g: () => (state.grid = !state.grid), m: () => (state.marks = !state.marks) };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const HELD = { "+": ["zoom", 1], "=": ["zoom", 1], "-": ["zoom", -1], ",": ["roll", -1], ".": ["roll", 1] };

function onKeyDown(event) {
  const typing = event.target.matches("input:not([type=checkbox]), dialog *");
  if (typing || event.ctrlKey || event.metaKey || (event.target.matches("button") && [" ", "Enter"].includes(event.key))) return;
  if (!state.hello?.owner && event.key !== "?") return;
  const arrow = ARROWS[event.key];
  if (arrow && (event.shiftKey || event.altKey)) moveCross(arrow, event.shiftKey);
  else if (arrow) state.keys.add(event.key), moveCamera(arrow[0] ? { x: arrow[0] } : { y: arrow[1] });
  else if (HELD[event.key]) moveCamera({ [HELD[event.key][0]]: HELD[event.key][1] });
  else if (KEYS[event.key] && !event.repeat) KEYS[event.key]();
  else return;
  event.preventDefault();
  requestDraw();
}

function onKeyUp(event) {
  if (event.key === "Shift") liftCross();
  const arrow = ARROWS[event.key];
  if (arrow && state.keys.delete(event.key)) moveCamera(arrow[0] ? { x: 0 } : { y: 0 });
  else if (HELD[event.key]) moveCamera({ [HELD[event.key][0]]: 0 });
}

function moveCross([dx, dy], dragging) {
  const cross = state.cross;
  if (dragging && !cross.pointer) {
    began();
    note((cross.pointer = { number: state.next++, x: cross.x, y: cross.y }), "down");
  }
  Object.assign(cross, { x: cross.x + dx * 0.02, y: cross.y + dy * 0.02, shown: true });
  if (cross.pointer) note(Object.assign(cross.pointer, { x: cross.x, y: cross.y }), "move");
}

function liftCross() {
  if (state.cross.pointer) note(state.cross.pointer, "up");
  state.cross.pointer = null;
}

function letGo() {
  liftCross();
  if (Object.values(state.stick).some(Boolean)) moveCamera({ x: 0, y: 0, zoom: 0, roll: 0 });
}

function wire() {
  const click = { play: toggle, pause, reset: KEYS.r, clear, webcam: toggleWebcam, "open-help": KEYS["?"],
    record: () => send({ do: "record", on: $("record").getAttribute("aria-pressed") !== "true" }),
    back: () => send({ do: "transfer", on: false }), watch: () => { state.watching = true; join(); } };
  for (const [id, action] of Object.entries(click)) $(id).onclick = () => action();
  for (const button of document.querySelectorAll("[data-tool]")) button.onclick = () => chooseTool(button.dataset.tool);
  $("prompt").onsubmit = (event) => { event.preventDefault(); send({ do: "prompt", text: $("text").value }); };
  $("picture").onchange = (event) => event.target.files[0] && upload(event.target.files[0], "image");
  $("video").onchange = (event) => event.target.files[0] && upload(event.target.files[0], "video");
  $("density").onchange = () => send({ do: "grid", rows: Number($("density").value), cols: Number($("density").value) });
  for (const id of ["density", "radius"]) {
    $(id).oninput = () => {
      $(`${id}-out`).textContent = id === "density" ? `${$(id).value} × ${$(id).value}` : `${$(id).value} %`;
      requestDraw();
    };
    $(id).oninput();
  }
  for (const id of ["rest", "released"]) $(id).onchange = () => send({ do: "options", [`hold_${id}`]: $(id).checked });
  for (const id of ["zoom", "roll"]) {
    $(id).oninput = () => moveCamera({ [id]: Number($(id).value) });
    $(id).onchange = () => { $(id).value = 0; moveCamera({ [id]: 0 }); }; // it springs back when let go
  }
  const pad = $("pad");
  pad.onpointerdown = (event) => { pad.setPointerCapture(event.pointerId); pad.onpointermove(event); };
  pad.onpointermove = (event) => {
    if (!pad.hasPointerCapture(event.pointerId)) return;
    const box = pad.getBoundingClientRect(), limit = (value) => Math.min(Math.max(value, -1), 1);
    moveCamera({ x: limit((event.clientX - box.left - 46) / 40), y: limit((event.clientY - box.top - 46) / 40) });
  };
  pad.onlostpointercapture = () => moveCamera({ x: 0, y: 0 });
  Object.assign(document, { onkeydown: onKeyDown, onkeyup: onKeyUp });
  window.onblur = letGo;
  window.ondragover = (event) => { event.preventDefault(); document.body.classList.add("dropping"); };
  window.ondragleave = () => document.body.classList.remove("dropping");
  window.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    const file = event.dataTransfer.files[0];
    if (file && state.hello?.owner) upload(file, file.type.startsWith("video/") ? "video" : "image");
  };
  new ResizeObserver(resize).observe(canvas);
  setInterval(tell, 500);
}

function tell() {
  const now = performance.now(), frames = state.shown.filter((time) => time > now - 2000);
  $("fps").textContent = frames.length > 1 ? ((frames.length - 1) / (frames.at(-1) - frames[0]) * 1000).toFixed(1) : "–";
  const sorted = [...state.latencies].sort((a, b) => a - b);
  for (const part of [50, 95])
    $(`p${part}`).textContent = sorted.length ? `${Math.round(sorted[Math.floor((sorted.length - 1) * part / 100)])} ms` : "–";
}

wire();
connect();
