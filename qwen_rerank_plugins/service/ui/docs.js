/**
 * The page of the API: its commands name the address that the page has, and can be copied.
 */

import { copy } from "./clipboard.js";

/** The start of the addresses in the page as it is served. */
const WRITTEN = /\S+:8501\//;
const SHOWN_MS = 2000;

for (const example of document.querySelectorAll(".example")) {
  const command = /** @type {HTMLElement} */ (example.querySelector("pre"));
  const button = /** @type {HTMLButtonElement} */ (example.querySelector("button"));
  command.textContent = (command.textContent ?? "").replace(WRITTEN, new URL(".", location.href).href);
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const copied = await copy({ "text/plain": command.textContent ?? "" });
    button.textContent = copied ? "Copied" : "Not copied: the browser does not allow it";
    setTimeout(() => {
      button.textContent = label;
    }, SHOWN_MS);
  });
}
