/**
 * The relevant sentences of the best documents, asked of the service after the ranking. Knows no elements.
 */

import { request, requestBody } from "./api.js";
import { loadKey } from "./state.js";
import { utf16Offset } from "./text.js";

/** @typedef {import("./ranking.js").Row} Row */
/** @typedef {{start: number, end: number, score: number}} Part of a text, in UTF-16 units */

const MOST_DOCUMENTS = 10;
/** Shorter texts are read at a glance. */
const LEAST_CHARACTERS = 120;
const MOST_CHARACTERS = 100_000;
const OPTIONS = { max_spans: 2, threshold: 0.5 };
const TIMEOUT_MS = 60_000;

/** @type {WeakMap<Row[], Promise<Map<number, Part[]>>>} by ranking */
const asked = new WeakMap();

/**
 * The parts of the best rows' texts that are relevant by themselves, by the rows' indices; asked once for a ranking, and
 * empty if the service does not answer: the ranking is complete without them.
 * @param {Row[]} rows best first
 * @param {{query: string, instructions: string[]}} outcome
 * @returns {Promise<Map<number, Part[]>>}
 */
export function relevantParts(rows, { query, instructions }) {
  const known = asked.get(rows);
  if (known) return known;
  const found = ask(chosen(rows), query, instructions[0]).catch(() => new Map());
  asked.set(rows, found);
  return found;
}

/** @param {Row[]} rows */
function chosen(rows) {
  let characters = 0;
  return rows.slice(0, MOST_DOCUMENTS).filter(({ text }) => text.length >= LEAST_CHARACTERS && (characters += text.length) <= MOST_CHARACTERS);
}

/**
 * @param {Row[]} rows
 * @param {string} query
 * @param {string} instruction
 * @returns {Promise<Map<number, Part[]>>}
 */
async function ask(rows, query, instruction) {
  if (rows.length === 0) return new Map();
  const texts = rows.map(({ text }) => text);
  const body = { ...requestBody({ query, instruction }, { documents: texts }), relevant_spans: OPTIONS };
  const answer = await request("api/rerank", { method: "POST", key: loadKey(), timeoutMs: TIMEOUT_MS, body });
  return new Map(answer.results[0].results.map((/** @type {any} */ entry) => [rows[entry.index].index, partsOf(texts[entry.index], entry.relevant_spans)]));
}

/**
 * @param {string} text
 * @param {any[]} spans
 * @returns {Part[]} in the order of the text; none that is the whole of it
 */
function partsOf(text, spans) {
  return spans
    .map(({ start, end, score }) => ({ start: utf16Offset(text, start), end: utf16Offset(text, end), score }))
    .filter(({ start, end }) => end > start && end - start < text.trim().length)
    .sort((a, b) => a.start - b.start);
}
