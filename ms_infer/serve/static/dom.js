// Elements of the page by id, and the line that comes and goes at its foot.

/** @param {string} id @returns {HTMLElement} */
export function $(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element #${id}`);
  return found;
}

/** @param {string} id @returns {HTMLInputElement} */
export const field = (id) => /** @type {HTMLInputElement} */ ($(id));

/** @param {string} id @returns {HTMLButtonElement} */
export const button = (id) => /** @type {HTMLButtonElement} */ ($(id));

/** @param {string} selector @returns {HTMLElement[]} */
export const all = (selector) => [...document.querySelectorAll(/** @type {"div"} */ (selector))];

let timer = 0;

/** Say something for five seconds; nothing takes back what was said. @param {string} text */
export function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = !text;
  clearTimeout(timer);
  timer = setTimeout(() => ($("toast").hidden = true), 5000);
}
