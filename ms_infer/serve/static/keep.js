// A picture of one's own, kept for this tab: it outlives a reload of the page.

import { inner } from "./wire.js";

const BASE = "ms-infer", STORE = "pictures";
const NAME = "own"; // in the tab's own storage, which is written at once: the name of the picture that counts
const LONGEST_MS = 24 * 3600 * 1000; // those of tabs that were closed are thrown away then

/** @typedef {Blob & { name?: string }} Own @typedef {{ file: Own, at: number }} Kept */

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

/**
 * Keep a picture in place of the one before, or none. From the call on the one before does not come back, however long
 * the browser takes to store anything; one that stores nothing is no fault. @param {Own | null} file
 */
export async function keepOwn(file) {
  if (inner) return; // of two futures in one tab, this page keeps the picture of the first
  const before = sessionStorage.getItem(NAME), name = String(Math.random());
  if (file) sessionStorage.setItem(NAME, name);
  else sessionStorage.removeItem(NAME);
  try {
    const pictures = await store("readwrite");
    if (before) pictures.delete(before);
    const walk = pictures.openCursor();
    walk.onsuccess = () => {
      const entry = walk.result;
      if (!entry) return;
      if (Date.now() - /** @type {Kept} */ (entry.value).at > LONGEST_MS) entry.delete();
      entry.continue();
    };
    if (file) await done(pictures.put({ file, at: Date.now() }, name));
  } catch {}
}

/** The picture that was kept. @returns {Promise<Own | null>} */
export async function keptOwn() {
  const name = sessionStorage.getItem(NAME);
  if (!name) return null;
  try {
    const kept = /** @type {Kept | undefined} */ (await done((await store("readonly")).get(name)));
    return kept?.file ?? null;
  } catch {
    return null;
  }
}
