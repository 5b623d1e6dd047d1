/**
 * Text as the page handles it: documents one a line, excerpts, and the service's character offsets.
 * Knows no tables and no elements.
 */

/**
 * The documents that a text field holds: one a line, blank lines left out.
 * @param {string} value
 * @returns {{documents: string[], numBlank: number}} blank lines are counted where they stand between or before documents
 */
export function documentsOf(value) {
  const lines = value.replace(/^\ufeff/, "").trimEnd().split(/\r\n|\r|\n/);
  const documents = lines.map((line) => line.trim()).filter((line) => line !== "");
  return { documents, numBlank: documents.length ? lines.length - documents.length : 0 };
}

/**
 * A text with spaces in place of its line breaks.
 * @param {string} text
 */
export function oneLine(text) {
  return text.split(/[\r\n]+/).map((line) => line.trim()).filter(Boolean).join(" ");
}

/**
 * Where the document with an index stands in a text field's value.
 * @param {string} value
 * @param {number} index
 * @returns {[number, number] | null} start and end in UTF-16 units, as `setSelectionRange` takes them
 */
export function lineRange(value, index) {
  let seen = -1;
  let start = 0;
  for (const line of value.split("\n")) {
    if (line.replace(/^\ufeff/, "").trim() !== "") seen += 1;
    if (seen === index) return [start, start + line.length];
    start += line.length + 1;
  }
  return null;
}

/**
 * The text with lone surrogates replaced: they cannot be written as UTF-8, so no service takes them.
 * @param {string} text
 */
export function wellFormed(text) {
  return text.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd");
}

/**
 * The UTF-16 offset of a character offset: the service counts code points, JavaScript counts halves of some of them.
 * @param {string} text
 * @param {number} characters
 */
export function utf16Offset(text, characters) {
  let offset = 0;
  for (let left = characters; left > 0 && offset < text.length; left -= 1) {
    offset += /** @type {number} */ (text.codePointAt(offset)) > 0xffff ? 2 : 1;
  }
  return offset;
}

/**
 * The last place at or before an offset that does not split a surrogate pair.
 * @param {string} text
 * @param {number} offset
 */
function wholeCharacter(text, offset) {
  const code = text.charCodeAt(offset);
  return offset > 0 && code >= 0xdc00 && code <= 0xdfff ? offset - 1 : offset;
}

/**
 * The part of a text to show while it is folded: its beginning, or the surroundings of a passage.
 * @param {string} text
 * @param {number} length UTF-16 units
 * @param {[number, number] | null} passage UTF-16 offsets
 * @returns {{start: number, end: number}} the whole text where it is short enough
 */
export function excerptRange(text, length, passage = null) {
  if (text.length <= length) return { start: 0, end: text.length };
  const lead = Math.floor(length / 6);
  const wanted = passage && passage[0] > lead ? passage[0] - lead : 0;
  const start = wholeCharacter(text, Math.min(wanted, text.length - length));
  return { start, end: wholeCharacter(text, start + length) };
}

/**
 * The beginning of a text, with an ellipsis where it was cut.
 * @param {string} text
 * @param {number} length UTF-16 units
 */
export function shortened(text, length) {
  const { end } = excerptRange(text, length);
  return end < text.length ? `${text.slice(0, end)}…` : text;
}
