/**
 * Two instructions side by side: both ranks of each document, and what moved. Knows two rankings, not where they come from.
 */

import { movement } from "./cards.js";
import { element } from "./dom.js";
import { sortableTable, textColumn } from "./grid.js";
import { number, score, t } from "./i18n.js";

/** @typedef {import("./ranking.js").Row} Row */
/** @typedef {{a: Row, b: Row, text: string, moved: number}} Pair a document's two rows; `moved`: places gained by the second */

/**
 * @param {HTMLElement} panel
 * @param {Row[]} rows by the first instruction, best first
 * @param {import("./results.js").Around} around
 */
export function showComparison(panel, rows, { second, instructions }) {
  const byIndex = new Map(second.map((row) => [row.index, row]));
  const pairs = rows.map((a) => {
    const b = /** @type {Row} */ (byIndex.get(a.index));
    return { a, b, text: a.text, moved: a.rank - b.rank };
  });
  const names = instructions.map((text, at) =>
    element("p", { class: "muted", dir: "auto" }, element("strong", {}, "AB"[at]), ` ${text || t("instructionDefault")}`),
  );
  panel.replaceChildren(
    element("p", { class: "words" }, sentence(pairs)),
    ...names,
    ...sortableTable({ rows: pairs, columns: columns(), caption: "compareCaption", classOf: ({ moved }) => moved !== 0 && "moved-row" }),
  );
}

/** @param {Pair[]} pairs */
function sentence(pairs) {
  const numMoved = pairs.filter(({ moved }) => moved).length;
  if (numMoved === 0) return t("compareSame");
  const { a, b } = pairs.reduce((most, pair) => (Math.abs(pair.moved) > Math.abs(most.moved) ? pair : most));
  return t("compareMoved", { n: numMoved, of: pairs.length, index: a.index + 1, from: a.rank, to: b.rank });
}

/** @returns {import("./grid.js").Column<Pair>[]} */
function columns() {
  const place = (/** @type {Row} */ row) =>
    element("span", {}, `${number(row.rank)} `, element("span", { class: "muted" }, score(row.score)));
  return [
    { label: "columnA", value: ({ a }) => a.rank, cell: ({ a }) => place(a) },
    { label: "columnB", value: ({ b }) => b.rank, cell: ({ b }) => place(b) },
    { label: "columnMoved", value: ({ moved }) => moved, cell: ({ moved }) => movement(moved), order: ({ moved }) => Math.abs(moved), descending: true },
    { label: "columnScoreA", value: ({ a }) => a.score },
    { label: "columnScoreB", value: ({ b }) => b.score },
    { label: "columnIndex", value: ({ a }) => a.index + 1 },
    textColumn(),
  ];
}
