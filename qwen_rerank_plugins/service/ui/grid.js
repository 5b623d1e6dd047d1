/**
 * Tables: sorting, copying, export; and the ranking as one. Knows rows and spreadsheets' formats, not the service.
 */

import { copy, saveFile } from "./clipboard.js";
import { element } from "./dom.js";
import { toCsv, toHtml, toTsv } from "./exporting.js";
import { language, number, score, t } from "./i18n.js";
import { showPaged } from "./paging.js";
import { hasLogOdds, logOddsOf } from "./ranking.js";
import { shortened } from "./text.js";

/** @typedef {import("./ranking.js").Row} Row */
/**
 * @template T
 * @typedef {object} Column
 * @property {string} label
 * @property {(row: T) => string | number} value as it is exported
 * @property {(row: T) => Node | string} [cell] as it is shown; columns without are only exported
 * @property {(row: T) => string | number} [order] by which rows are sorted, if not by the value
 * @property {boolean} [descending] whether the first press shows the largest first
 */

const PAGE_SIZE = 200;
const TEXT_LENGTH = 400;

/**
 * @param {HTMLElement} panel
 * @param {Row[]} rows best first
 * @param {import("./results.js").Around} around
 */
export function showGrid(panel, rows, { cut }) {
  /** @type {Column<Row>[]} */
  const columns = [
    { label: "columnRank", value: (row) => row.rank, cell: (row) => number(row.rank) },
    // Ranks follow the scores more exactly than the scores' own digits do; a first press shows the best, as everywhere.
    { label: "columnScore", value: (row) => row.score, cell: (row) => score(row.score), order: (row) => -row.rank, descending: true },
    ...(hasLogOdds(rows) ? [{ label: "columnLogOdds", value: logOddsOf }] : []),
    { label: "columnIndex", value: (row) => row.index + 1, cell: (row) => number(row.index + 1) },
    textColumn(),
  ];
  const classOf = (/** @type {Row} */ row) => (row.rank === 1 ? "first" : row.rank > cut.kept && "below");
  panel.replaceChildren(...sortableTable({ rows, columns, caption: "tableCaption", classOf }));
}

/** @returns {Column<{text: string}>} of documents, by which they are found when other columns were sorted */
export function textColumn() {
  const cell = (/** @type {{text: string}} */ { text }) => element("div", { class: "cell-text", dir: "auto" }, shortened(text, TEXT_LENGTH));
  return { label: "columnText", value: ({ text }) => text, cell };
}

/**
 * A table that its heads sort, with buttons to copy and to export all of it.
 * @template T
 * @param {object} options
 * @param {T[]} options.rows in the order of the first column
 * @param {Column<T>[]} options.columns the last one is text, the others are numbers
 * @param {string} options.caption
 * @param {(row: T) => string | false} options.classOf
 */
export function sortableTable({ rows, columns, caption, classOf }) {
  const shown = columns.filter((column) => column.cell);
  let [sorted, isDescending] = [shown[0], false];
  let inOrder = rows;
  const note = element("span", { class: "muted", role: "status" });
  // A narrow window lays rows out as grids, which takes their roles from them in some browsers, so all are written.
  const head = element("tr", { role: "row" });
  const body = element("tbody", { role: "rowgroup" });
  const foot = element("div");
  const isLast = (/** @type {Column<T>} */ column) => column === columns.at(-1);

  const build = (/** @type {T} */ row) => {
    const cells = shown.map((column) => element("td", { role: "cell", class: !isLast(column) && "numeric" }, column.cell(row)));
    return element("tr", { role: "row", class: classOf(row) }, ...cells);
  };
  const fill = () => {
    inOrder = sortedRows(rows, sorted, isDescending);
    for (const cell of head.children) {
      if (cell.dataset.key === sorted.label) cell.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
    body.replaceChildren();
    foot.replaceChildren(showPaged({ container: body, items: inOrder, build, pageSize: PAGE_SIZE }));
  };
  const sort = (/** @type {Column<T>} */ column) => {
    // A second press turns a column over.
    isDescending = sorted === column ? !isDescending : column.descending === true;
    sorted = column;
    fill();
  };
  /** @returns {import("./exporting.js").Sheet} everything, whatever is shown, with scores in full */
  const sheet = () => ({
    headers: columns.map(({ label }) => t(label)),
    rows: inOrder.map((row) => columns.map((column) => column.value(row))),
  });
  head.append(...shown.map((column) => headerCell(column.label, isLast(column), () => sort(column))));
  fill();
  const title = element("caption", { class: "hidden" }, t(caption));
  return [
    element("div", { class: "toolbar" }, copyButton(sheet, note), exportButton(sheet, note), note),
    element("div", { class: "table-box" }, element("table", { role: "table" }, title, element("thead", { role: "rowgroup" }, head), body)),
    foot,
  ];
}

/**
 * @template T
 * @param {T[]} rows equal ones keep their order
 * @param {Column<T>} column
 * @param {boolean} isDescending
 */
function sortedRows(rows, { value, order = value }, isDescending) {
  const collator = new Intl.Collator(language(), { numeric: true });
  const compare = (/** @type {any} */ a, /** @type {any} */ b) => (typeof a === "number" ? a - b : collator.compare(a, b));
  return [...rows].sort((a, b) => (isDescending ? compare(order(b), order(a)) : compare(order(a), order(b))));
}

/**
 * @param {string} label
 * @param {boolean} isWide
 * @param {() => void} click
 */
function headerCell(label, isWide, click) {
  const arrow = element("span", { class: "arrow", "aria-hidden": "true" });
  const button = element("button", { type: "button", title: t("sortBy", { column: t(label) }), click }, t(label), arrow);
  return element("th", { role: "columnheader", scope: "col", class: isWide ? "wide" : "numeric", "data-key": label }, button);
}

/**
 * @param {() => import("./exporting.js").Sheet} sheet
 * @param {HTMLElement} note
 */
function copyButton(sheet, note) {
  const click = async () => {
    const cells = sheet();
    const isCopied = await copy({ "text/plain": toTsv(cells), "text/html": toHtml(cells) });
    note.textContent = isCopied ? t("copied", { n: cells.rows.length }) : t("copyFailed");
  };
  return element("button", { type: "button", class: "small", click }, t("copy"));
}

/**
 * @param {() => import("./exporting.js").Sheet} sheet
 * @param {HTMLElement} note
 */
function exportButton(sheet, note) {
  const click = () => {
    const cells = sheet();
    const stamp = new Date().toISOString().slice(0, 19).replace(/[T:]/g, "-");
    saveFile(`rerank-${stamp}.csv`, "text/csv;charset=utf-8", toCsv(cells));
    note.textContent = t("exported", { n: cells.rows.length });
  };
  return element("button", { type: "button", class: "small", click }, t("exportCsv"));
}
