/**
 * The left column's fields: query, instruction, documents, pasting, examples, clearing. Knows no service.
 */

import { byId, debounced, element } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { language, t } from "./i18n.js";
import { setUpLineNumbers } from "./lines.js";
import { clearInput, loadInput, saveInput, takeLinkedInput } from "./state.js";
import { documentsFromClipboard } from "./tables.js";
import { documentsOf, lineRange } from "./text.js";

/** @typedef {import("./state.js").Input} Input */

const SAVE_PAUSE_MS = 300;
/** Above this, the browser takes seconds to insert so that it can undo: about 4 ms a line. */
const MOST_UNDOABLE = { lines: 100, length: 20_000 };

/**
 * @param {{onChange: () => void}} options called after every change of the input
 */
export function setUpInputs({ onChange }) {
  const fields = { query: byId("query"), instruction: byId("instruction"), second: byId("second"), documents: byId("documents") };
  const compares = byId("compare");
  /** @type {Input | null} what clearing, an example or a file replaced */
  let replaced = null;

  const read = () => ({
    query: fields.query.value,
    instruction: fields.instruction.value,
    second: compares.checked ? fields.second.value : null,
    documents: fields.documents.value,
  });
  const save = debounced(() => tell(saveInput(read()) ? "" : t("notKept"), { only: "notKept" }), SAVE_PAUSE_MS);
  const showLines = setUpLineNumbers(fields.documents, byId("line-list"));
  const changed = () => {
    showLines();
    showCount(fields.documents.value);
    showInstructionState(fields.instruction.value);
    fields.second.hidden = !compares.checked;
    save();
    onChange();
  };
  const write = (/** @type {Input} */ input) => {
    fields.query.value = input.query;
    fields.instruction.value = input.instruction;
    fields.second.value = input.second ?? "";
    compares.checked = input.second !== null;
    fields.documents.value = input.documents;
    byId("instruction-box").open = input.instruction !== "" || compares.checked;
    changed();
  };
  const offerUndo = () => {
    replaced = read();
    byId("undo").hidden = false;
  };
  const replace = (/** @type {Input} */ input, /** @type {string} */ message) => {
    if (Object.values(read()).some((value) => value?.trim())) offerUndo();
    write(input);
    tell(message);
  };
  const addDocuments = (/** @type {string[]} */ documents) => {
    offerUndo();
    const present = fields.documents.value.trimEnd();
    fields.documents.value = [...(present ? [present] : []), ...documents].join("\n");
    changed();
  };

  for (const field of [...Object.values(fields), compares]) field.addEventListener("input", changed);
  // A reload may come before the pause is over.
  addEventListener("pagehide", () => saveInput(read()));
  fields.documents.addEventListener("paste", (/** @type {ClipboardEvent} */ event) =>
    pasteCells(event, { onChange: changed, offerUndo }),
  );
  byId("clear").addEventListener("click", () => {
    replace({ query: "", instruction: "", second: null, documents: "" }, t("cleared"));
    clearInput();
    fields.query.focus();
  });
  byId("undo").addEventListener("click", () => {
    if (replaced) write(replaced);
    byId("undo").hidden = true;
    tell(t("undone"));
    fields.documents.focus();
  });

  const showExamples = () => {
    const load = (/** @type {import("./examples.js").Example} */ example) => {
      const { query, instruction, documents } = example;
      replace({ query, instruction, second: null, documents: documents.join("\n") }, t("exampleLoaded"));
    };
    const chip = (/** @type {import("./examples.js").Example} */ example) =>
      element("button", { type: "button", class: "chip", click: () => load(example) }, example.name[language()]);
    byId("examples").replaceChildren(...EXAMPLES.map(chip));
  };
  const refresh = () => {
    showExamples();
    showCount(fields.documents.value);
    showInstructionState(fields.instruction.value);
    tell("");
  };

  const saved = loadInput();
  if (saved) write(saved);
  const takeLink = () => {
    const linked = takeLinkedInput();
    if (linked) replace(linked, "");
  };
  takeLink();
  // A link to the page that is open already loads nothing.
  addEventListener("hashchange", takeLink);
  return { addDocuments, read, refresh, find: (/** @type {number} */ index) => selectLine(fields.documents, index) };
}

/** @type {string} which kind of sentence the note holds */
let noteKind = "";

/**
 * Say something below the documents.
 * @param {string} sentence
 * @param {{only?: string}} [options] `only`: an empty sentence clears nothing but a sentence of that kind
 */
export function tell(sentence, { only = "" } = {}) {
  if (sentence === "" && only !== noteKind && only !== "") return;
  noteKind = sentence === "" ? "" : only;
  byId("note").textContent = sentence;
}

/** @param {string} value */
function showCount(value) {
  const { documents, numBlank } = documentsOf(value);
  const blank = numBlank ? ` · ${t("blankIgnored", { n: numBlank })}` : "";
  byId("count").textContent = t("documentCount", { n: documents.length }) + blank;
}

/** @param {string} value */
function showInstructionState(value) {
  byId("instruction-state").textContent = t(value.trim() ? "instructionCustom" : "instructionDefault");
}

/**
 * Turn pasted cells into lines; a piece of a line is left to the browser.
 * @param {ClipboardEvent} event
 * @param {{onChange: () => void, offerUndo: () => void}} options
 */
function pasteCells(event, { onChange, offerUndo }) {
  const pasted = documentsFromClipboard(event.clipboardData?.getData("text/plain") ?? "");
  if (!pasted) return;
  event.preventDefault();
  insertLines(/** @type {HTMLTextAreaElement} */ (event.target), pasted.documents, offerUndo);
  onChange();
  tell(importSentence(t("pasted", { n: pasted.documents.length }), pasted));
}

/**
 * What became of the rows, after what was done with them.
 * @param {string} beginning
 * @param {{numBlank: number, numMultiline: number}} counts
 * @param {string[]} more
 */
export function importSentence(beginning, { numBlank, numMultiline }, more = []) {
  return [
    beginning,
    ...(numMultiline ? [t("mergedCells", { n: numMultiline })] : []),
    ...(numBlank ? [t("droppedBlank", { n: numBlank })] : []),
    ...more,
  ].join(t("separator"));
}

/**
 * Replace the selection by lines of their own.
 * @param {HTMLTextAreaElement} field
 * @param {string[]} lines
 * @param {() => void} offerUndo called before what the browser cannot undo
 */
function insertLines(field, lines, offerUndo) {
  const before = field.value.slice(0, field.selectionStart);
  const after = field.value.slice(field.selectionEnd);
  const opening = before === "" || before.endsWith("\n") ? "" : "\n";
  const closing = after === "" || after.startsWith("\n") ? "" : "\n";
  const inserted = opening + lines.join("\n") + closing;
  field.focus();
  // The older command is the only one that the browser's undo knows.
  const isSmall = lines.length <= MOST_UNDOABLE.lines && inserted.length <= MOST_UNDOABLE.length;
  if (isSmall && inserted !== "" && document.execCommand("insertText", false, inserted)) return;
  offerUndo();
  field.setRangeText(inserted, field.selectionStart, field.selectionEnd, "end");
}

/**
 * @param {HTMLTextAreaElement} field
 * @param {number} index of a document
 */
function selectLine(field, index) {
  const range = lineRange(field.value, index);
  if (!range) return;
  field.focus();
  // Setting the selection alone does not scroll: a caret at its end does, in a field that has the focus.
  field.setSelectionRange(range[0], range[0]);
  field.blur();
  field.focus();
  field.setSelectionRange(...range);
}
