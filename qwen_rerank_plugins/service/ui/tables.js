/**
 * Rows out of pasted cells and files: quoting, delimiters, columns. Knows no files, no encodings and no elements.
 */

const DELIMITERS = [",", "\t", ";", "|"];
const SAMPLE_ROWS = 50;

/** Names of a column that is likely to hold the text, best first. */
const TEXT_COLUMNS = /^(text|document|documents|doc|content|body|passage|文本|文档|内容|正文|段落)$/i;

/**
 * Rows of delimited text, quoted as spreadsheets quote: a quoted cell starts with `"` right after a delimiter, holds
 * doubled quotes, and ends with `"` right before a delimiter. Whatever does not fit that is plain text.
 * @param {string} text
 * @param {string} delimiter one character
 * @param {{clipboard?: boolean}} [options] `clipboard`: spreadsheets then only quote cells that need it, so a quoted
 *   line that would not need it is somebody's quotation and keeps its marks
 * @returns {string[][]}
 */
export function parseDelimited(text, delimiter, { clipboard = false } = {}) {
  const source = text.replace(/^\ufeff/, "");
  const rows = [];
  let row = [];
  let position = 0;
  while (position < source.length) {
    const cell = readQuoted(source, position, delimiter, clipboard) ?? readPlain(source, position, delimiter);
    row.push(cell.value);
    const ends = source[cell.end];
    position = cell.end + 1;
    if (ends === delimiter && position < source.length) continue;
    if (ends === delimiter) row.push("");
    if (ends === "\r" && source[position] === "\n") position += 1;
    rows.push(row);
    row = [];
  }
  return rows;
}

/**
 * @param {string} source
 * @param {number} start
 * @param {string} delimiter
 * @param {boolean} clipboard
 */
function readQuoted(source, start, delimiter, clipboard) {
  if (source[start] !== '"') return null;
  let close = source.indexOf('"', start + 1);
  while (close >= 0 && source[close + 1] === '"') close = source.indexOf('"', close + 2);
  if (close < 0) return null;
  const after = source[close + 1];
  if (after !== undefined && after !== delimiter && after !== "\r" && after !== "\n") return null;
  const raw = source.slice(start + 1, close);
  if (clipboard && raw !== "" && !/[\r\n\t]|""/.test(raw)) return null;
  return { value: raw.replaceAll('""', '"'), end: close + 1 };
}

/**
 * @param {string} source
 * @param {number} start
 * @param {string} delimiter
 */
function readPlain(source, start, delimiter) {
  let end = start;
  while (end < source.length) {
    const character = source[end];
    if (character === delimiter || character === "\n" || character === "\r") break;
    end += 1;
  }
  return { value: source.slice(start, end), end };
}

/**
 * The delimiter that cuts the first rows into the same number of cells, or null for text in one column.
 * @param {string} text
 */
export function detectDelimiter(text) {
  const head = text.slice(0, 64_000);
  let best = null;
  let bestScore = 0;
  for (const delimiter of DELIMITERS) {
    const score = regularity(parseDelimited(head, delimiter).slice(0, SAMPLE_ROWS));
    if (score > bestScore) [best, bestScore] = [delimiter, score];
  }
  return best;
}

/**
 * How much rows look like a table: the share that has the first row's number of cells; 0 for one column or prose.
 * @param {string[][]} rows
 */
function regularity(rows) {
  const filled = rows.filter((row) => row.some((cell) => cell.trim() !== ""));
  const width = filled[0]?.length ?? 0;
  if (width < 2) return 0;
  const share = filled.filter((row) => row.length === width).length / filled.length;
  return share >= 0.8 ? share + width / 1000 : 0;
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

/** @param {string} cell */
function oneLine(cell) {
  return cell.replace(/[^\S\r\n]*[\r\n]+\s*/g, " ");
}

/**
 * Pasted text as documents, or null where the browser's own pasting is right: a piece of a line.
 * @param {string} text
 */
export function documentsFromClipboard(text) {
  if (!/[\t\r\n]/.test(text.replace(/^\ufeff/, ""))) return null;
  return documentsFromRows(parseDelimited(text, "\t", { clipboard: true }));
}

/**
 * A guess at a table's head and its text column, for somebody to correct.
 * @param {string[][]} rows
 * @returns {{hasHeader: boolean, column: number, numColumns: number}}
 */
export function guessColumns(rows) {
  const numColumns = Math.max(0, ...rows.slice(0, SAMPLE_ROWS).map((row) => row.length));
  const first = rows[0] ?? [];
  const named = first.findIndex((cell) => TEXT_COLUMNS.test(cell.trim()));
  if (named >= 0) return { hasHeader: true, column: named, numColumns };
  const sample = rows.slice(1, SAMPLE_ROWS);
  const lengths = Array.from({ length: numColumns }, (_, at) => total(sample.map((row) => (row[at] ?? "").length)));
  const column = Math.max(0, lengths.indexOf(Math.max(...lengths)));
  return { hasHeader: looksLikeHeader(first, sample), column, numColumns };
}

/**
 * A head's cells are short, filled, different, and no numbers, while there are longer ones or numbers below.
 * @param {string[]} first
 * @param {string[][]} sample
 */
function looksLikeHeader(first, sample) {
  const cells = first.map((cell) => cell.trim());
  const short = cells.every((cell) => cell !== "" && cell.length <= 24 && Number.isNaN(Number(cell)));
  const below = sample.flat();
  const longer = below.length > 0 && total(below.map((cell) => cell.length)) / below.length > 12;
  return short && new Set(cells).size === cells.length && (longer || below.some(isNumber));
}

/** @param {string} cell */
function isNumber(cell) {
  return cell.trim() !== "" && !Number.isNaN(Number(cell));
}

/** @param {number[]} numbers */
function total(numbers) {
  return numbers.reduce((sum, number) => sum + number, 0);
}
