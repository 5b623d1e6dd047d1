/**
 * Documents out of a file: its encoding, its table, and which column of it. Loaded when a file first comes.
 * Knows neither the service nor how the file was handed over.
 */

import { decodeText, DecodingError } from "./decoding.js";
import { byId, element } from "./dom.js";
import { t } from "./i18n.js";
import { importSentence, tell } from "./inputs.js";
import { detectDelimiter, documentsFromRows, guessColumns, parseDelimited } from "./tables.js";
import { shortened } from "./text.js";

/** @typedef {{name: string, encoding: string, rows: string[][]}} TableFile */

const LARGEST_MB = 20;
const PREVIEW_ROWS = 3;
const PREVIEW_LENGTH = 80;
const ALL_COLUMNS = "all";

/**
 * @param {(documents: string[]) => void} onDocuments
 */
export function setUpImporting(onDocuments) {
  const columnChoice = setUpColumnChoice(onDocuments);
  return {
    refresh: columnChoice.refresh,
    take: (/** @type {File} */ file) => readFile(file, columnChoice, onDocuments),
  };
}

/**
 * @param {File} file
 * @param {{show: (file: TableFile) => void}} columnChoice
 * @param {(documents: string[]) => void} onDocuments
 */
async function readFile(file, columnChoice, onDocuments) {
  const { name } = file;
  if (file.size > LARGEST_MB * 2 ** 20) return tell(t("fileTooLarge", { name, n: LARGEST_MB }));
  try {
    const { text, encoding } = decodeText(new Uint8Array(await file.arrayBuffer()));
    const delimiter = /\.txt$/i.test(name) ? tabOf(text) : detectDelimiter(text);
    const rows = delimiter ? parseDelimited(text, delimiter) : linesOf(text, name);
    if (rows.some((row) => row.length > 1)) return columnChoice.show({ name, encoding, rows });
    return importRows({ name, encoding, rows }, null, onDocuments);
  } catch (error) {
    if (!(error instanceof DecodingError)) return tell(t("fileUnreadable", { name }));
    return tell(t(error.reason === "workbook" ? "fileWorkbook" : "fileBinary", { name }));
  }
}

/**
 * Plain text is cut into columns by tabs only: commas in it are punctuation.
 * @param {string} text
 */
function tabOf(text) {
  return detectDelimiter(text) === "\t" ? "\t" : null;
}

/**
 * One row a line; in a table of one column, cells may be quoted all the same.
 * @param {string} text
 * @param {string} name
 */
function linesOf(text, name) {
  if (!/\.txt$/i.test(name)) return parseDelimited(text, "\0");
  return text.replace(/^\ufeff/, "").replace(/(\r\n|\r|\n)$/, "").split(/\r\n|\r|\n/).map((line) => [line]);
}

/**
 * @param {TableFile} file
 * @param {number | null} column
 * @param {(documents: string[]) => void} onDocuments
 */
function importRows({ name, encoding, rows }, column, onDocuments) {
  const taken = documentsFromRows(rows, column);
  if (taken.documents.length === 0) return tell(t("fileEmpty", { name }));
  onDocuments(taken.documents);
  return tell(importSentence(t("imported", { n: taken.documents.length, name, encoding }), taken));
}

/**
 * @param {(documents: string[]) => void} onDocuments
 */
function setUpColumnChoice(onDocuments) {
  const [box, select, header] = [byId("column-choice"), byId("column"), byId("column-header")];
  /** @type {TableFile | null} */
  let file = null;

  const column = () => (select.value === ALL_COLUMNS ? null : Number(select.value));
  const dataRows = () => (file ? file.rows.slice(header.checked ? 1 : 0) : []);
  const preview = () => {
    const { documents } = documentsFromRows(dataRows().slice(0, PREVIEW_ROWS * 4), column());
    const items = documents.slice(0, PREVIEW_ROWS).map((text) => shortened(text, PREVIEW_LENGTH));
    byId("column-preview").replaceChildren(...items.map((text) => element("li", { dir: "auto" }, text)));
  };
  const options = (/** @type {number} */ numColumns) => {
    const names = header.checked && file ? file.rows[0] : [];
    const chosen = select.value;
    const named = Array.from({ length: numColumns }, (_, at) => (names[at] ?? "").trim() || t("columnNumber", { n: at + 1 }));
    const items = named.map((name, at) => element("option", { value: at }, shortened(name, 40)));
    select.replaceChildren(...items, element("option", { value: ALL_COLUMNS }, t("columnAll")));
    if (chosen) select.value = chosen;
  };
  const refresh = () => {
    if (!file) return;
    byId("column-title").textContent = t("columnTitle", { name: file.name });
    options(guessColumns(file.rows).numColumns);
    preview();
  };
  const close = () => {
    file = null;
    box.hidden = true;
    byId("documents").focus();
  };

  select.addEventListener("change", preview);
  header.addEventListener("change", refresh);
  byId("column-cancel").addEventListener("click", close);
  byId("column-import").addEventListener("click", () => {
    if (file) importRows({ ...file, rows: dataRows() }, column(), onDocuments);
    close();
  });
  return {
    refresh,
    /** @param {TableFile} latest */
    show(latest) {
      file = latest;
      const guess = guessColumns(latest.rows);
      header.checked = guess.hasHeader;
      select.replaceChildren();
      refresh();
      select.value = String(guess.column);
      preview();
      box.hidden = false;
      select.focus();
    },
  };
}
