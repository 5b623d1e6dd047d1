/**
 * A line across the curve that parts the rows to keep from the others: a slider that is dragged up and down or moved by
 * keys, with the `min_score` that does the same in a request. Knows rows and a drawing's places, no cards.
 */

import { copy } from "./clipboard.js";
import { element } from "./dom.js";
import { t } from "./i18n.js";

/** @typedef {import("./ranking.js").Row} Row */
/** @typedef {{kept: number, minScore: number}} Cut how many rows are kept, and the threshold that keeps them */

const MOST_DIGITS = 12;
const HANDLE_HALF = 9;

/**
 * Every way to part rows by a `min_score`, from all rows to the first alone. Rows of equal scores stay together.
 * @param {Row[]} rows best first
 * @returns {Cut[]}
 */
export function cutsOf(rows) {
  const cuts = [{ kept: rows.length, minScore: 0 }];
  for (let kept = rows.length - 1; kept > 0; kept -= 1) {
    const minScore = between(rows[kept].score, rows[kept - 1].score);
    if (minScore !== null) cuts.push({ kept, minScore });
  }
  return cuts;
}

/**
 * The number of fewest digits between two others.
 * @param {number} low
 * @param {number} high
 */
function between(low, high) {
  for (let digits = 1; digits <= MOST_DIGITS; digits += 1) {
    const value = Number(((low + high) / 2).toPrecision(digits));
    if (value > low && value < high) return value;
  }
  return null;
}

/**
 * @param {object} options
 * @param {Row[]} options.rows best first
 * @param {number[]} options.values of the rows, as they are drawn
 * @param {import("./curve.js").Frame} options.frame
 * @param {Cut} options.cut at first
 * @param {(cut: Cut) => void} options.onCut
 * @returns {{line: HTMLElement, words: HTMLElement}} the line, to lie over the drawing, and what it means
 */
export function thresholdOf({ rows, values, frame, cut, onCut }) {
  const cuts = cutsOf(rows);
  const line = element("div", { class: "threshold", role: "slider", tabindex: "0", "aria-orientation": "vertical" });
  const code = element("code", {});
  const note = element("span", { class: "muted", role: "status" });
  const count = element("span", { class: "muted" });
  let at = Math.max(0, cuts.findIndex(({ kept }) => kept === cut.kept));
  const placeOf = ({ kept: number }) =>
    number === rows.length ? frame.y(frame.low) : (frame.y(values[number - 1]) + frame.y(values[number])) / 2;

  const show = () => {
    const { kept: number, minScore } = cuts[at];
    const name = t("threshold");
    code.textContent = `min_score=${minScore}`;
    count.textContent = t("thresholdCount", { done: number, n: rows.length });
    line.style.top = `${placeOf(cuts[at]) - HANDLE_HALF}px`;
    for (const [key, value] of Object.entries({ label: name, valuemin: 0, valuemax: cuts.length - 1, valuenow: at })) {
      line.setAttribute(`aria-${key}`, String(value));
    }
    line.setAttribute("aria-valuetext", `${code.textContent}${t("separator")}${count.textContent}`);
  };
  const move = (/** @type {number} */ wanted) => {
    const inside = Math.min(cuts.length - 1, Math.max(0, wanted));
    if (inside === at) return;
    at = inside;
    note.textContent = "";
    show();
    onCut(cuts[at]);
  };
  listen(line, {
    at: () => at,
    last: cuts.length - 1,
    move,
    nearest: (y) => cuts.reduce((best, cut, index) => (Math.abs(placeOf(cut) - y) < Math.abs(placeOf(cuts[best]) - y) ? index : best), 0),
  });
  const copyIt = async () => {
    note.textContent = t((await copy({ "text/plain": code.textContent })) ? "thresholdCopied" : "notCopied");
  };
  const button = element("button", { type: "button", class: "small", click: copyIt }, t("thresholdCopy"));
  show();
  return { line, words: element("div", { class: "toolbar threshold-words" }, code, count, button, note) };
}

/**
 * @param {HTMLElement} line
 * @param {{at: () => number, last: number, move: (at: number) => void, nearest: (y: number) => number}} options
 */
function listen(line, { at, last, move, nearest }) {
  line.addEventListener("pointerdown", (event) => {
    line.setPointerCapture(event.pointerId);
    line.focus();
    event.preventDefault();
  });
  line.addEventListener("pointermove", (event) => {
    const plot = line.parentElement;
    if (plot && line.hasPointerCapture(event.pointerId)) move(nearest(event.clientY - plot.getBoundingClientRect().top));
  });
  line.addEventListener("keydown", (event) => {
    /** @type {Record<string, number>} */
    const goals = { ArrowUp: at() + 1, ArrowRight: at() + 1, ArrowDown: at() - 1, ArrowLeft: at() - 1, PageUp: at() + 10, PageDown: at() - 10, Home: 0, End: last };
    if (!(event.key in goals)) return;
    event.preventDefault();
    move(goals[event.key]);
  });
}
