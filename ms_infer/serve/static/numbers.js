// The numbers beneath the picture.

import { $ } from "./dom.js";
import { state } from "./state.js";

const SLOW_SECONDS = 2, OFTEN = 0.2; // a link is slow when it loses more than this part for so long
let dropped = -1;
let losing = 0;

/** Frames per second and the lag, twice a second. */
export function tell() {
  const now = performance.now();
  const frames = state.shown.filter((time) => time > now - 2000);
  const seconds = frames.length > 1 ? (frames[frames.length - 1] - frames[0]) / 1000 : 0;
  $("fps").textContent = seconds ? ((frames.length - 1) / seconds).toFixed(1) : "–";
  const sorted = [...state.latencies].sort((a, b) => a - b);
  for (const part of [50, 95])
    $(`p${part}`).textContent = sorted.length ? `${Math.round(sorted[Math.floor(((sorted.length - 1) * part) / 100)])} ms` : "–";
  if (!state.recording) return;
  const taped = Math.floor((now - state.recording) / 1000);
  $("tape-time").textContent = `${Math.floor(taped / 60)}:${String(taped % 60).padStart(2, "0")}`;
}

/** What the server counts, once a second. @param {{ chunk_ms?: number, dropped?: number, fps?: number }} stats */
export function tellStats({ chunk_ms, dropped: lost, fps = 0 }) {
  if (chunk_ms) $("chunk").textContent = `${Math.round(chunk_ms)} ms`;
  if (lost === undefined) return;
  $("dropped").textContent = String(lost + state.lost);
  const fresh = dropped >= 0 ? Math.max(lost - dropped, 0) : 0;
  dropped = lost;
  losing = fresh > 2 && fresh > OFTEN * (fresh + fps) ? losing + 1 : 0;
  state.slow = losing >= SLOW_SECONDS;
}
