/**
 * A ranking as CSV, tab-separated cells and an HTML table, for spreadsheets. Knows no buttons and no clipboard.
 */

/** @typedef {{headers: string[], rows: (string | number)[][]}} Sheet numbers are written bare, strings as text */

/** What makes a spreadsheet take a cell for a formula, full-width forms included, behind any white space. */
const FORMULA = /^(?:[\t\r]|\s*[=+\-@\uff1d\uff0b\uff0d\uff20])/;

/**
 * A text cell that no spreadsheet computes.
 * @param {string} text
 */
export function inert(text) {
  return FORMULA.test(text) ? `'${text}` : text;
}

/**
 * With a byte order mark, without which Excel takes UTF-8 for the machine's old code page.
 * @param {Sheet} sheet
 */
export function toCsv({ headers, rows }) {
  const line = (/** @type {(string | number)[]} */ cells) => cells.map(csvCell).join(",");
  return `\ufeff${[headers, ...rows].map(line).join("\r\n")}\r\n`;
}

/** @param {string | number} value */
function csvCell(value) {
  return typeof value === "number" ? String(value) : quoted(inert(value));
}

/**
 * As spreadsheets put cells on the clipboard: a cell is quoted only where it must be.
 * @param {Sheet} sheet
 */
export function toTsv({ headers, rows }) {
  return [headers, ...rows].map((cells) => cells.map(tsvCell).join("\t")).join("\r\n");
}

/** @param {string | number} value */
function tsvCell(value) {
  if (typeof value === "number") return String(value);
  const text = inert(value);
  return /[\t\r\n"]/.test(text) ? quoted(text) : text;
}

/** @param {string} text */
function quoted(text) {
  return `"${text.replaceAll('"', '""')}"`;
}

/**
 * The serialiser escapes the text; a document of its own keeps the page's parser out of it.
 * @param {Sheet} sheet
 */
export function toHtml({ headers, rows }) {
  const scratch = document.implementation.createHTMLDocument("");
  const table = scratch.createElement("table");
  const addRow = (/** @type {string} */ tag, /** @type {(string | number)[]} */ cells) => {
    const row = table.insertRow();
    for (const value of cells) {
      const cell = row.appendChild(scratch.createElement(tag));
      cell.textContent = typeof value === "number" ? String(value) : inert(value);
    }
  };
  addRow("th", headers);
  for (const cells of rows) addRow("td", cells);
  return table.outerHTML;
}
