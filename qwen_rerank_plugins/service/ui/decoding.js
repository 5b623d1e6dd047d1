/**
 * Bytes of a file as text. Knows the encodings that spreadsheets and editors write here: UTF-8, UTF-16 and GB18030.
 */

/** A file that holds no text; `reason` is "workbook" or "binary". */
export class DecodingError extends Error {
  /** @param {"workbook" | "binary"} reason */
  constructor(reason) {
    super(`the file holds no text: ${reason}`);
    this.reason = reason;
  }
}

/**
 * @param {Uint8Array} bytes
 * @returns {{text: string, encoding: "UTF-8" | "UTF-16" | "GB18030"}}
 * @throws {DecodingError} it is a workbook or anything else that is not text
 */
export function decodeText(bytes) {
  if (startsWith(bytes, [0x50, 0x4b, 3, 4]) || startsWith(bytes, [0xd0, 0xcf, 0x11, 0xe0])) {
    throw new DecodingError("workbook");
  }
  const utf16 = utf16Label(bytes);
  const attempts = utf16 ? [utf16] : ["utf-8", "gb18030"];
  for (const label of attempts) {
    const text = decodeAs(bytes, label);
    if (text !== null) return { text, encoding: encodingName(label) };
  }
  throw new DecodingError("binary");
}

/**
 * UTF-16 by its mark, or by its zero bytes: no other encoding of text here has any.
 * @param {Uint8Array} bytes
 */
function utf16Label(bytes) {
  if (startsWith(bytes, [0xff, 0xfe])) return "utf-16le";
  if (startsWith(bytes, [0xfe, 0xff])) return "utf-16be";
  let balance = 0;
  const sample = Math.min(bytes.length, 65_536);
  for (let at = 0; at < sample; at += 1) {
    if (bytes[at] === 0) balance += at % 2 ? 1 : -1;
  }
  if (balance === 0) return bytes.subarray(0, sample).includes(0) ? "utf-16le" : null;
  return balance > 0 ? "utf-16le" : "utf-16be";
}

/**
 * @param {Uint8Array} bytes
 * @param {string} label
 */
function decodeAs(bytes, label) {
  try {
    const text = new TextDecoder(label, { fatal: true }).decode(bytes);
    // Control characters tell a picture or a program that happened to decode.
    return /[\0-\x08\x0e-\x1a\x1c-\x1f]/.test(text) ? null : text;
  } catch {
    return null;
  }
}

/** @param {string} label */
function encodingName(label) {
  if (label === "utf-8") return "UTF-8";
  return label === "gb18030" ? "GB18030" : "UTF-16";
}

/**
 * @param {Uint8Array} bytes
 * @param {number[]} mark
 */
function startsWith(bytes, mark) {
  return mark.every((byte, at) => bytes[at] === byte);
}
