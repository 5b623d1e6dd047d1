/**
 * The ranking as cards, best first. Knows rows and how to show them, not where they come from.
 */

import { element } from "./dom.js";
import { score, t } from "./i18n.js";
import { showPaged } from "./paging.js";
import { clearestScale, logOddsOf, rangeOf, scoreOf } from "./ranking.js";
import { relevantParts } from "./spans.js";
import { excerptRange, utf16Offset } from "./text.js";

/** @typedef {import("./ranking.js").Row} Row */
/** @typedef {{start: number, end: number, score?: number}} Part of a text that is marked, in UTF-16 units; `score`: by itself */

const PAGE_SIZE = 50;
const EXCERPT_LENGTH = 320;

/**
 * @param {HTMLElement} panel
 * @param {Row[]} rows best first
 * @param {import("./results.js").Around} around
 */
export function showCards(panel, rows, { cut, onFind, query, instructions }) {
  const list = element("ol", { class: "cards" });
  const scale = clearestScale(rows);
  const value = scale === "logOdds" ? logOddsOf : scoreOf;
  const [low, high] = rangeOf(rows.map(value), scale);
  /** @type {Map<number, (parts: Part[]) => void>} */
  const painters = new Map();
  const build = (/** @type {Row} */ row) => {
    const text = documentText(row);
    painters.set(row.index, text.paint);
    return card(row, { share: (value(row) - low) / (high - low), isBelow: row.rank > cut.kept, onFind, text: text.nodes });
  };
  const foot = showPaged({ container: list, items: rows, build, pageSize: PAGE_SIZE });
  const saturated = scale === "logOdds" ? [element("p", { class: "muted saturated" }, t("saturated"))] : [];
  panel.replaceChildren(...saturated, list, foot);
  relevantParts(rows, { query, instructions }).then((found) => {
    for (const [index, parts] of found) if (parts.length) painters.get(index)?.(parts);
  });
}

/**
 * @param {Row} row
 * @param {object} options
 * @param {number} options.share of the bar that is filled
 * @param {boolean} options.isBelow whether it is below the threshold
 * @param {(index: number) => void} options.onFind
 * @param {HTMLElement[]} options.text
 */
function card(row, { share, isBelow, onFind, text }) {
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
    element("div", { class: "card-body" }, ...text, facts),
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
 * The text, folded when it is long, with the best passage or the relevant sentences marked.
 * @param {Row} row
 */
function documentText(row) {
  let parts = passageOf(row);
  let isOpen = false;
  const paragraph = element("p", { class: "text", dir: "auto" });
  const button = element("button", { type: "button", class: "link fold" });
  const show = () => {
    const best = [...parts].sort((a, b) => (b.score ?? 0) - (a.score ?? 0))[0];
    const range = isOpen ? { start: 0, end: row.text.length } : excerptRange(row.text, EXCERPT_LENGTH, best ? [best.start, best.end] : null);
    paragraph.replaceChildren(...pieces(row.text, range, parts));
    button.textContent = isOpen ? t("collapse") : t("expand", { n: row.text.length });
    button.setAttribute("aria-expanded", String(isOpen));
  };
  const paint = (/** @type {Part[]} */ found) => {
    parts = found;
    show();
  };
  button.addEventListener("click", () => {
    isOpen = !isOpen;
    show();
  });
  show();
  return { nodes: row.text.length > EXCERPT_LENGTH ? [paragraph, button] : [paragraph], paint };
}

/**
 * @param {Row} row
 * @returns {Part[]}
 */
function passageOf({ span, text }) {
  if (!span || span[1] <= span[0]) return [];
  return [{ start: utf16Offset(text, span[0]), end: utf16Offset(text, span[1]) }];
}

/**
 * What a text has in a range, cut at the borders of the marked parts.
 * @param {string} text
 * @param {{start: number, end: number}} range
 * @param {Part[]} parts in the order of the text
 */
function pieces(text, { start, end }, parts) {
  const shown = start > 0 ? ["…"] : [];
  let at = start;
  for (const part of parts) {
    const from = Math.min(end, Math.max(at, part.start));
    const to = Math.min(end, Math.max(from, part.end));
    const tip = part.score === undefined ? {} : { title: t("partTip", { score: score(part.score) }) };
    shown.push(text.slice(at, from), ...(to > from ? [element("mark", tip, text.slice(from, to))] : []));
    at = to;
  }
  return [...shown, text.slice(at, end), ...(end < text.length ? ["…"] : [])];
}
