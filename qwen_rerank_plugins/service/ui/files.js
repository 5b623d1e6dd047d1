/**
 * Handing over a file: by the button, or dropped. What is in it is importing.js's business.
 */

import { byId } from "./dom.js";
import { t } from "./i18n.js";
import { tell } from "./inputs.js";

/** @param {import("./importing.js").Options} options */
export function setUpFiles(options) {
  const chooser = byId("file");
  /** @type {{take: (file: File) => Promise<void>, refresh: () => void} | null} */
  let importing = null;

  const take = async (/** @type {File | undefined} */ file) => {
    if (!file) return;
    try {
      importing ??= (await import("./importing.js")).setUpImporting(options);
    } catch {
      return tell(t("offlineText"));
    }
    await importing.take(file);
  };
  byId("choose-file").addEventListener("click", () => chooser.click());
  chooser.addEventListener("change", async () => {
    await take(chooser.files[0]);
    // The same file may be chosen again.
    chooser.value = "";
  });
  acceptDrops(byId("drop-zone"), take);
  return { refresh: () => importing?.refresh() };
}

/**
 * A file that is dropped anywhere must not make the browser leave the page; on the zone it is taken.
 * @param {HTMLElement} zone
 * @param {(file: File | undefined) => void} onFile
 */
function acceptDrops(zone, onFile) {
  const hasFile = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files") ?? false;
  const highlight = (/** @type {boolean} */ on) => zone.classList.toggle("dropping", on);
  document.addEventListener("dragover", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    highlight(zone.contains(/** @type {Node} */ (event.target)));
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) highlight(false);
  });
  document.addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    highlight(false);
    if (zone.contains(/** @type {Node} */ (event.target))) onFile(event.dataTransfer?.files[0]);
  });
}
