// The numbers beneath the picture.

import { $ } from "./dom.js";
import { state } from "./state.js";

/** Frames per second and the lag, twice a second. */
export function tell() {
  const now = performance.now();
  const frames = state.shown.filter((time) => time > now - 2000);
  const seconds = frames.length > 1 ? (frames[frames.length - 1] - frames[0]) / 1000 : 0;
  $("fps").textContent = seconds ? ((frames.length - 1) / seconds).toFixed(1) : "–";
  const sorted = [...state.latencies].sort((a, b) => a - b);
  for (const part of [50, 95])
    $(`p${part}`).textContent = sorted.length ? `${Math.round(sorted[Math.floor(((sorted.length - 1) * part) / 100)])} ms` : "–";
}

/** What the server counts. @param {{ chunk_ms?: number, dropped?: number }} stats */
export function tellStats({ chunk_ms, dropped }) {
  if (chunk_ms) $("chunk").textContent = `${Math.round(chunk_ms)} ms`;
  if (dropped !== undefined) $("dropped").textContent = String(dropped + state.lost);
}
