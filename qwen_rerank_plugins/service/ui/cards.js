/**
 * The ranking as cards, best first. Knows rows and how to show them, not where they come from.
 */

import { element } from "./dom.js";
import { score, t } from "./i18n.js";
import { showPaged } from "./paging.js";
import { clearestScale, logOddsOf, rangeOf, scoreOf } from "./ranking.js";
import { excerptRange, utf16Offset } from "./text.js";

/** @typedef {import("./ranking.js").Row} Row */

const PAGE_SIZE = 50;
const EXCERPT_LENGTH = 320;

/**
 * @param {HTMLElement} panel
 * @param {Row[]} rows best first
 * @param {import("./results.js").Around} around
 */
export function showCards(panel, rows, { cut, onFind }) {
  const list = element("ol", { class: "cards" });
  const scale = clearestScale(rows);
  const value = scale === "logOdds" ? logOddsOf : scoreOf;
  const [low, high] = rangeOf(rows.map(value), scale);
  const build = (/** @type {Row} */ row) => card(row, { share: (value(row) - low) / (high - low), isBelow: row.rank > cut.kept, onFind });
  const foot = showPaged({ container: list, items: rows, build, pageSize: PAGE_SIZE });
  const saturated = scale === "logOdds" ? [element("p", { class: "muted saturated" }, t("saturated"))] : [];
  panel.replaceChildren(...saturated, list, foot);
}

/**
 * @param {Row} row
 * @param {object} options
 * @param {number} options.share of the bar that is filled
 * @param {boolean} options.isBelow whether it is below the threshold
 * @param {(index: number) => void} options.onFind
 */
function card(row, { share, isBelow, onFind }) {
  const find = element(
    "button",
    { type: "button", class: "link", title: t("showInInput", { n: row.index + 1 }), click: () => onFind(row.index) },
    t("original", { n: row.index + 1 }),
  );
  const facts = element("p", { class: "facts" }, find, movement(row.moved), ...(isBelow ? [element("span", { class: "tag" }, t("below"))] : []), ...marks(row));
  if (row.logOdds !== null) facts.append(element("span", {}, t("logOdds", { value: row.logOdds.toFixed(2) })));
  return element(
    "li",
    { class: `card${row.rank === 1 ? " first" : ""}${isBelow ? " below" : ""}` },
    element("span", { class: "rank" }, t("rank", { n: row.rank })),
    element("div", { class: "card-body" }, ...documentText(row), facts),
    element("div", { class: "card-score" }, element("span", { class: "score" }, score(row.score)), scoreBar(share)),
  );
}

/**
 * How far a document has moved, in words.
 * @param {number} moved places gained
 */
export function movement(moved) {
  if (moved === 0) return element("span", { class: "moved" }, t("movedNot"));
  const key = moved > 0 ? "movedUp" : "movedDown";
  const arrow = element("span", { "aria-hidden": "true" }, moved > 0 ? "↑ " : "↓ ");
  return element("span", { class: moved > 0 ? "moved up" : "moved down" }, arrow, t(key, { n: Math.abs(moved) }));
}

/** @param {Row} row */
function marks(row) {
  const mark = (/** @type {string} */ key) => element("span", { class: "tag", title: t(`${key}Tip`) }, t(key));
  return [
    ...(row.tied ? [element("span", { class: "tag", title: t("tiedTip") }, t("tied", { n: row.rank - 1 }))] : []),
    ...(row.span ? [mark("passage")] : []),
    ...(row.truncated ? [mark("truncated")] : []),
    ...(row.queryTruncated ? [mark("queryTruncated")] : []),
  ];
}

/** @param {number} share */
function scoreBar(share) {
  const fill = element("span", { class: "fill" });
  // The policy forbids style attributes, not the style object.
  fill.style.width = `${Math.min(1, Math.max(0, share)) * 100}%`;
  return element("span", { class: "bar", "aria-hidden": "true" }, fill);
}

/**
 * The text, folded when it is long, with the best passage marked.
 * @param {Row} row
 */
function documentText(row) {
  const passage = passageOf(row);
  const folded = excerptRange(row.text, EXCERPT_LENGTH, passage);
  const paragraph = element("p", { class: "text", dir: "auto" });
  const show = (/** @type {{start: number, end: number}} */ range) =>
    paragraph.replaceChildren(...pieces(row.text, range, passage));
  show(folded);
  if (folded.end - folded.start === row.text.length) return [paragraph];

  const button = element("button", { type: "button", class: "link fold", "aria-expanded": "false" });
  const label = (/** @type {boolean} */ open) => {
    button.textContent = open ? t("collapse") : t("expand", { n: row.text.length });
    button.setAttribute("aria-expanded", String(open));
  };
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    show(open ? { start: 0, end: row.text.length } : folded);
    label(open);
  });
  label(false);
  return [paragraph, button];
}

/**
 * @param {Row} row
 * @returns {[number, number] | null} in UTF-16 units
 */
function passageOf({ span, text }) {
  if (!span || span[1] <= span[0]) return null;
  return [utf16Offset(text, span[0]), utf16Offset(text, span[1])];
}

/**
 * The part of a text in a range, cut at the borders of the passage.
 * @param {string} text
 * @param {{start: number, end: number}} range
 * @param {[number, number] | null} passage
 */
function pieces(text, { start, end }, passage) {
  const from = Math.min(end, Math.max(start, passage?.[0] ?? end));
  const to = Math.min(end, Math.max(from, passage?.[1] ?? end));
  return [
    ...(start > 0 ? ["…"] : []),
    text.slice(start, from),
    ...(to > from ? [element("mark", {}, text.slice(from, to))] : []),
    text.slice(to, end),
    ...(end < text.length ? ["…"] : []),
  ];
}
