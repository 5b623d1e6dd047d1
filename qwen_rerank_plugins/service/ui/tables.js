/**
 * Documents out of rows of cells, and rows out of pasted cells. Knows no files and no elements.
 */

import { oneLine } from "./text.js";

/**
 * Rows of a spreadsheet's cells: separated by tabs, and quoted only where a cell needs it. A quoted cell starts with `"`
 * right after a tab, holds doubled quotes, and ends with `"` right before a tab; whatever does not fit that is plain
 * text, and so is somebody's quotation that would not need the quotes.
 * @param {string} text
 * @returns {string[][]}
 */
export function parseCells(text) {
  const source = text.replace(/^\ufeff/, "");
  const rows = [];
  let row = [];
  let position = 0;
  while (position < source.length) {
    const cell = readQuoted(source, position) ?? readPlain(source, position);
    row.push(cell.value);
    const ends = source[cell.end];
    position = cell.end + 1;
    if (ends === "\t" && position < source.length) continue;
    if (ends === "\t") row.push("");
    if (ends === "\r" && source[position] === "\n") position += 1;
    rows.push(row);
    row = [];
  }
  return rows;
}

/**
 * @param {string} source
 * @param {number} start
 */
function readQuoted(source, start) {
  if (source[start] !== '"') return null;
  let close = source.indexOf('"', start + 1);
  while (close >= 0 && source[close + 1] === '"') close = source.indexOf('"', close + 2);
  if (close < 0) return null;
  const after = source[close + 1];
  if (after !== undefined && !/[\t\r\n]/.test(after)) return null;
  const raw = source.slice(start + 1, close);
  if (raw !== "" && !/[\r\n\t]|""/.test(raw)) return null;
  return { value: raw.replaceAll('""', '"'), end: close + 1 };
}

/**
 * @param {string} source
 * @param {number} start
 */
function readPlain(source, start) {
  const ends = /[\t\r\n]/g;
  ends.lastIndex = start;
  const end = ends.exec(source)?.index ?? source.length;
  return { value: source.slice(start, end), end };
}

/**
 * One document a row. A row's cells become one line; line breaks inside a cell become spaces.
 * @param {string[][]} rows
 * @param {number | null} column the one to take, or null to join all of them with " | "
 * @returns {{documents: string[], numBlank: number, numMultiline: number}}
 */
export function documentsFromRows(rows, column = null) {
  const documents = [];
  let numMultiline = 0;
  for (const row of rows) {
    const cells = (column === null ? row : [row[column] ?? ""]).map((cell) => cell.trim()).filter(Boolean);
    if (cells.some((cell) => /[\r\n]/.test(cell))) numMultiline += 1;
    if (cells.length) documents.push(cells.map(oneLine).join(" | "));
  }
  return { documents, numBlank: rows.length - documents.length, numMultiline };
}

/**
 * Pasted text as documents, or null where the browser's own pasting is right: a piece of a line.
 * @param {string} text
 */
export function documentsFromClipboard(text) {
  if (!/[\t\r\n]/.test(text.replace(/^\ufeff/, ""))) return null;
  return documentsFromRows(parseCells(text));
}
