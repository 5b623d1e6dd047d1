/**
 * Documents out of a file, which the service reads: its encoding, its delimiter, and which column of it. Loaded when a
 * file first comes. Knows no formats and does not know how the file was handed over.
 */

import { request, ServiceProblem } from "./api.js";
import { DELIMITERS } from "./delimiters.js";
import { byId, element } from "./dom.js";
import { t } from "./i18n.js";
import { importSentence, tell } from "./inputs.js";
import { sentenceOf } from "./problem.js";
import { documentsFromRows } from "./tables.js";
import { shortened } from "./text.js";

/**
 * @typedef {object} Table as the service reads it
 * @property {"csv" | "jsonl" | "parquet" | "text"} format
 * @property {string | null} encoding
 * @property {string | null} delimiter
 * @property {object | null} guess
 * @property {{option: "encoding" | "delimiter", choices: string[]}[]} ambiguous
 * @property {string[] | null} header
 * @property {number} document_column
 * @property {string[][]} rows
 * @property {number | null} num_rows null if only the beginning was read
 * @property {number} num_blank
 * @property {number} num_rejected
 * @property {{line: number, problem: string}[]} rejected
 */
/** @typedef {{encoding?: string, delimiter?: string}} Chosen */
/**
 * @typedef {object} Options
 * @property {(documents: string[]) => void} onDocuments
 * @property {() => string} key
 * @property {() => {max_body_bytes?: number}} limits
 */

const TIMEOUT_MS = 120_000;
const PREVIEW_ROWS = 3;
const PREVIEW_LENGTH = 80;
const ALL_COLUMNS = "all";
const ENCODINGS = ["utf-8", "gb18030", "big5", "utf-16", "cp932", "cp949", "cp1252", "cp1251"];

/** @param {Options} options */
export function setUpImporting({ onDocuments, key, limits }) {
  let turn = 0;
  /** The table in a file, or null if there is none or another file came meanwhile. */
  const read = async (/** @type {File} */ file, /** @type {Chosen} */ chosen) => {
    turn += 1;
    const mine = turn;
    const largest = limits().max_body_bytes ?? Infinity;
    if (file.size > largest) {
      tell(t("fileTooLarge", { name: file.name, n: largest / 2 ** 20 }));
      return null;
    }
    try {
      const table = await readTable(file, chosen, key());
      return mine === turn ? table : null;
    } catch (error) {
      if (mine === turn) tell(failureOf(file, error));
      return null;
    }
  };
  const dialog = setUpDialog({ read, onDocuments });
  return {
    refresh: dialog.refresh,
    async take(/** @type {File} */ file) {
      const table = await read(file, {});
      if (!table) return;
      const isList = table.rows.every((row) => row.length === 1) && table.header === null;
      if (isList && table.guess === null) importRows(file.name, table, table.rows, null, onDocuments);
      else dialog.show(file, table);
    },
  };
}

/**
 * @param {File} file
 * @param {Chosen} chosen
 * @param {string} key
 * @returns {Promise<Table>}
 */
async function readTable(file, chosen, key) {
  const address = `api/read-file?${new URLSearchParams({ name: file.name, ...chosen })}`;
  const table = await request(address, { method: "POST", key, body: file, timeoutMs: TIMEOUT_MS });
  if (!Array.isArray(table?.rows)) throw new ServiceProblem("malformed");
  return table;
}

/**
 * @param {File} file
 * @param {unknown} error
 */
function failureOf(file, error) {
  const { name } = file;
  if (!(error instanceof ServiceProblem)) throw error;
  if (error.status === 415) return t(/\.xlsx?$/i.test(name) ? "fileWorkbook" : "fileBinary", { name });
  return error.status === 422 ? t("fileUnreadable", { name, text: error.detail }) : sentenceOf(error);
}

/**
 * @param {string} name
 * @param {Table} table
 * @param {string[][]} rows
 * @param {number | null} column
 * @param {(documents: string[]) => void} onDocuments
 */
function importRows(name, table, rows, column, onDocuments) {
  const { documents, numBlank, numMultiline } = documentsFromRows(rows, column);
  const [rejected] = table.rejected;
  const more = [
    ...(rejected ? [t("rejectedRows", { n: table.num_rejected, line: rejected.line, text: rejected.problem })] : []),
    ...(table.num_rows === null ? [t("cutRows")] : []),
  ];
  if (documents.length === 0) return tell([t("fileEmpty", { name }), ...more].join(" "));
  onDocuments(documents);
  const encoding = (table.encoding ?? table.format).toUpperCase();
  const counts = { numBlank: numBlank + table.num_blank, numMultiline };
  return tell(importSentence(t("imported", { n: documents.length, name, encoding }), counts, more));
}

/**
 * @param {object} options
 * @param {(file: File, chosen: Chosen) => Promise<Table | null>} options.read
 * @param {(documents: string[]) => void} options.onDocuments
 */
function setUpDialog({ read, onDocuments }) {
  const [box, column, header] = [byId("column-choice"), byId("column"), byId("column-header")];
  const formats = { encoding: byId("column-encoding"), delimiter: byId("column-delimiter") };
  /** @type {{file: File, table: Table, chosen: Chosen} | null} */
  let current = null;

  const chosenColumn = () => (column.value === ALL_COLUMNS ? null : Number(column.value));
  const preview = () => {
    if (!current) return;
    const { documents } = documentsFromRows(dataRows(current.table, header.checked).slice(0, PREVIEW_ROWS * 4), chosenColumn());
    const items = documents.slice(0, PREVIEW_ROWS).map((text) => shortened(text, PREVIEW_LENGTH));
    byId("column-preview").replaceChildren(...items.map((text) => element("li", { dir: "auto" }, text)));
  };
  const refresh = () => {
    if (!current) return;
    const { file, table } = current;
    byId("column-title").textContent = t("columnTitle", { name: file.name });
    byId("column-doubt").textContent = doubtOf(table);
    fillSelect(formats.encoding, encodingsOf(table), table.encoding ?? "");
    fillSelect(formats.delimiter, delimitersOf(table), table.delimiter ?? "none");
    fillSelect(column, columnsOf(table, header.checked), column.value);
    preview();
  };
  const showTable = (/** @type {Table} */ table) => {
    header.checked = table.header !== null;
    // Keys of objects are no row.
    header.disabled = isNamed(table);
    formats.encoding.parentElement.hidden = table.encoding === null;
    formats.delimiter.parentElement.hidden = isNamed(table);
    column.replaceChildren();
    refresh();
    column.value = String(table.document_column);
    preview();
  };
  const close = () => {
    current = null;
    box.hidden = true;
    byId("documents").focus();
  };

  for (const [option, select] of Object.entries(formats)) {
    select.addEventListener("change", async () => {
      if (!current) return;
      const { file } = current;
      const chosen = { ...current.chosen, [option]: select.value };
      current.chosen = chosen;
      const table = await read(file, chosen);
      if (!table || current?.file !== file) return;
      current = { file, table, chosen };
      showTable(table);
    });
  }
  column.addEventListener("change", preview);
  header.addEventListener("change", refresh);
  byId("column-cancel").addEventListener("click", close);
  byId("column-import").addEventListener("click", () => {
    if (!current) return;
    const { file, table } = current;
    importRows(file.name, table, dataRows(table, header.checked), chosenColumn(), onDocuments);
    close();
  });
  return {
    refresh,
    /**
     * @param {File} file
     * @param {Table} table
     */
    show(file, table) {
      current = { file, table, chosen: {} };
      showTable(table);
      box.hidden = false;
      (table.ambiguous.length ? formats[table.ambiguous[0].option] : column).focus();
    },
  };
}

/**
 * @param {any} select
 * @param {[string, string][]} options values and names
 * @param {string} value
 */
function fillSelect(select, options, value) {
  select.replaceChildren(...options.map(([one, name]) => element("option", { value: one }, name)));
  if (value !== "") select.value = value;
}

/** @param {Table} table */
function isNamed({ format }) {
  return format === "jsonl" || format === "parquet";
}

/**
 * @param {Table} table
 * @param {boolean} hasHeader
 */
function dataRows(table, hasHeader) {
  const rows = table.header ? [table.header, ...table.rows] : table.rows;
  return rows.slice(hasHeader ? 1 : 0);
}

/**
 * @param {Table} table
 * @param {boolean} hasHeader
 * @returns {[string, string][]}
 */
function columnsOf({ header, rows }, hasHeader) {
  const first = header ?? rows[0] ?? [];
  const named = first.map((cell, at) => (hasHeader && cell.trim()) || t("columnNumber", { n: at + 1 }));
  return [...named.map((name, at) => /** @type {[string, string]} */ ([String(at), shortened(name, 40)])), [ALL_COLUMNS, t("columnAll")]];
}

/**
 * @param {Table} table
 * @returns {[string, string][]}
 */
function encodingsOf({ encoding, ambiguous }) {
  const plausible = ambiguous.filter(({ option }) => option === "encoding").flatMap(({ choices }) => choices);
  const names = [...new Set([...(encoding === null ? [] : [encoding]), ...plausible, ...ENCODINGS])];
  return names.map((name) => [name, name.toUpperCase()]);
}

/**
 * @param {Table} table
 * @returns {[string, string][]}
 */
function delimitersOf({ delimiter }) {
  /** @type {[string, string][]} */
  const known = DELIMITERS.map(([value, name]) => [value, t(name)]);
  const isOther = delimiter !== null && known.every(([value]) => value !== delimiter);
  return [...known, ...(isOther ? [/** @type {[string, string]} */ ([delimiter, delimiter])] : []), ["none", t("delimiterNone")]];
}

/** @param {Table} table */
function doubtOf({ ambiguous, guess }) {
  const sentences = ambiguous.map(({ option, choices }) => {
    const named = option === "encoding" ? choices.map((name) => name.toUpperCase()) : choices.map(nameOfDelimiter);
    return t(option === "encoding" ? "doubtEncoding" : "doubtDelimiter", { choices: named.join(" / ") });
  });
  return sentences.length || !guess ? sentences.join(" ") : t("guessedFormat");
}

/** @param {string} delimiter */
function nameOfDelimiter(delimiter) {
  const [, name] = DELIMITERS.find(([value]) => value === delimiter) ?? [];
  return name ? t(name) : delimiter;
}
