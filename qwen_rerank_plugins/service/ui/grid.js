/**
 * The ranking as a table: sorting, copying, export. Knows rows and spreadsheets' formats, not the service.
 */

import { copy, saveFile } from "./clipboard.js";
import { element } from "./dom.js";
import { toCsv, toHtml, toTsv } from "./exporting.js";
import { language, number, score, t } from "./i18n.js";
import { showPaged } from "./paging.js";
import { sortedRows } from "./ranking.js";
import { shortened } from "./text.js";

/** @typedef {import("./ranking.js").Row} Row */
/** @typedef {{key: "rank" | "score" | "index" | "text", descending: boolean}} Order */

const PAGE_SIZE = 200;
const TEXT_LENGTH = 400;

/** @type {{key: Order["key"], label: string, numeric: boolean}[]} */
const COLUMNS = [
  { key: "rank", label: "columnRank", numeric: true },
  { key: "score", label: "columnScore", numeric: true },
  { key: "index", label: "columnIndex", numeric: true },
  { key: "text", label: "columnText", numeric: false },
];

/**
 * @param {HTMLElement} panel
 * @param {Row[]} rows best first
 * @param {import("./results.js").Around} around
 */
export function showGrid(panel, rows, { cut }) {
  /** @type {Order} */
  let order = { key: "rank", descending: false };
  let inOrder = rows;
  const note = element("span", { class: "muted", role: "status" });
  // A narrow window lays rows out as grids, which takes their roles from them in some browsers, so all are written.
  const head = element("tr", { role: "row" });
  const body = element("tbody", { role: "rowgroup" });
  const foot = element("div");

  const sort = (/** @type {Order["key"]} */ key) => {
    // A first press on the score shows the best, as everywhere; a second one turns a column over.
    order = { key, descending: order.key === key ? !order.descending : key === "score" };
    fill();
  };
  const fill = () => {
    inOrder = sortedRows(rows, order.key, order.descending, language());
    markOrder(head, order);
    body.replaceChildren();
    foot.replaceChildren(showPaged({ container: body, items: inOrder, build: (row) => tableRow(row, row.rank > cut.kept), pageSize: PAGE_SIZE }));
  };

  head.append(...COLUMNS.map((column) => headerCell(column, sort)));
  fill();
  panel.replaceChildren(
    element("div", { class: "toolbar" }, copyButton(() => inOrder, note), exportButton(() => inOrder, note), note),
    element(
      "div",
      { class: "table-box" },
      element(
        "table",
        { role: "table" },
        element("caption", { class: "hidden" }, t("tableCaption")),
        element("thead", { role: "rowgroup" }, head),
        body,
      ),
    ),
    foot,
  );
}

/**
 * @param {{key: Order["key"], label: string, numeric: boolean}} column
 * @param {(key: Order["key"]) => void} onSort
 */
function headerCell({ key, label, numeric }, onSort) {
  const arrow = element("span", { class: "arrow", "aria-hidden": "true" });
  const button = element(
    "button",
    { type: "button", title: t("sortBy", { column: t(label) }), click: () => onSort(key) },
    t(label),
    arrow,
  );
  return element("th", { role: "columnheader", scope: "col", class: numeric ? "numeric" : "wide", "data-key": key }, button);
}

/**
 * @param {Element} head
 * @param {Order} order
 */
function markOrder(head, { key, descending }) {
  for (const cell of head.children) {
    if (cell.getAttribute("data-key") === key) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
}

/**
 * @param {Row} row
 * @param {boolean} isBelow whether it is below the threshold
 */
function tableRow(row, isBelow) {
  return element(
    "tr",
    { role: "row", class: row.rank === 1 ? "first" : isBelow && "below" },
    element("td", { role: "cell", class: "numeric" }, number(row.rank)),
    element("td", { role: "cell", class: "numeric" }, score(row.score)),
    element("td", { role: "cell", class: "numeric" }, number(row.index + 1)),
    element("td", { role: "cell" }, element("div", { class: "cell-text", dir: "auto" }, shortened(row.text, TEXT_LENGTH))),
  );
}

/**
 * Everything, whatever is shown, with scores in full.
 * @param {Row[]} rows
 * @returns {import("./exporting.js").Sheet}
 */
function sheetOf(rows) {
  const withLogOdds = rows.every((row) => row.logOdds !== null);
  return {
    headers: [
      t("columnRank"),
      t("columnScore"),
      ...(withLogOdds ? [t("columnLogOdds")] : []),
      t("columnIndex"),
      t("columnText"),
    ],
    rows: rows.map((row) => [
      row.rank,
      row.score,
      ...(withLogOdds ? [/** @type {number} */ (row.logOdds)] : []),
      row.index + 1,
      row.text,
    ]),
  };
}

/**
 * @param {() => Row[]} rows
 * @param {HTMLElement} note
 */
function copyButton(rows, note) {
  const copyCells = async () => {
    const sheet = sheetOf(rows());
    const copied = await copy({ "text/plain": toTsv(sheet), "text/html": toHtml(sheet) });
    note.textContent = copied ? t("copied", { n: sheet.rows.length }) : t("copyFailed");
  };
  return element("button", { type: "button", class: "small", click: copyCells }, t("copy"));
}

/**
 * @param {() => Row[]} rows
 * @param {HTMLElement} note
 */
function exportButton(rows, note) {
  const save = () => {
    const sheet = sheetOf(rows());
    const stamp = new Date().toISOString().slice(0, 19).replace(/[T:]/g, "-");
    saveFile(`rerank-${stamp}.csv`, "text/csv;charset=utf-8", toCsv(sheet));
    note.textContent = t("exported", { n: sheet.rows.length });
  };
  return element("button", { type: "button", class: "small", click: save }, t("exportCsv"));
}
