// A picture of one's own, kept for this tab: it outlives a reload of the page.

import { inner } from "./wire.js";

const BASE = "ms-infer", STORE = "pictures";
const LONGEST_MS = 24 * 3600 * 1000; // those of tabs that were closed are thrown away then

/** @typedef {Blob & { name?: string }} Own @typedef {{ file: Own, at: number }} Kept */

/** Name of this tab, the same after a reload. */
function tab() {
  const name = sessionStorage.getItem("tab") ?? String(Math.random());
  sessionStorage.setItem("tab", name);
  return name;
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

/** @param {IDBTransactionMode} mode */
async function store(mode) {
  const opening = indexedDB.open(BASE, 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
  return (await done(opening)).transaction(STORE, mode).objectStore(STORE);
}

/** Keep a picture, or none. A browser that keeps nothing is no fault. @param {Own | null} file */
export async function keepOwn(file) {
  if (inner) return; // of two futures in one tab, this page keeps the picture of the first
  try {
    const pictures = await store("readwrite");
    if (file) pictures.put({ file, at: Date.now() }, tab());
    else pictures.delete(tab());
    const walk = pictures.openCursor();
    walk.onsuccess = () => {
      const entry = walk.result;
      if (!entry) return;
      if (Date.now() - /** @type {Kept} */ (entry.value).at > LONGEST_MS) entry.delete();
      entry.continue();
    };
  } catch {}
}

/** The picture that was kept. @returns {Promise<Own | null>} */
export async function keptOwn() {
  try {
    const kept = /** @type {Kept | undefined} */ (await done((await store("readonly")).get(tab())));
    return kept?.file ?? null;
  } catch {
    return null;
  }
}
