/**
 * Handing text to the rest of the machine: the clipboard and downloads. Knows no rankings.
 */

import { element } from "./dom.js";

/**
 * Put text on the clipboard.
 * @param {Record<string, string>} types the text in each media type
 * @returns {Promise<boolean>} whether the browser allowed it
 */
export async function copy(types) {
  try {
    const blobs = Object.entries(types).map(([type, text]) => [type, new Blob([text], { type })]);
    await navigator.clipboard.write([new ClipboardItem(Object.fromEntries(blobs))]);
    return true;
  } catch {
    // Away from localhost, plain HTTP has no clipboard API; the older way works everywhere.
    return copyByCommand(types);
  }
}

/** @param {Record<string, string>} types */
function copyByCommand(types) {
  let filled = false;
  const fill = (/** @type {ClipboardEvent} */ event) => {
    for (const [type, text] of Object.entries(types)) event.clipboardData?.setData(type, text);
    event.preventDefault();
    filled = event.clipboardData !== null;
  };
  document.addEventListener("copy", fill);
  try {
    return document.execCommand("copy") && filled;
  } finally {
    document.removeEventListener("copy", fill);
  }
}

/**
 * @param {string} name
 * @param {string} type
 * @param {string | Blob} content
 */
export function saveFile(name, type, content) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  element("a", { href: address, download: name }).click();
  // The browser reads the address after this call has returned.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
