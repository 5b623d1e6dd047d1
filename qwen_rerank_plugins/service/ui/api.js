/**
 * The service's public API, and everything that can go wrong with it as one kind of error.
 *
 * Addresses are relative, so the page works behind any path prefix. A long list goes in slices: pairs are scored one by
 * one, so the slices' scores together are the list's scores, and each finished slice is progress that can be shown.
 * Knows no elements and no languages.
 */

import { wellFormed } from "./text.js";

/** @typedef {import("./ranking.js").Scored} Scored */
/** @typedef {{model: string, scored: Scored[], numTokens: number, calibrated: boolean | null}} Answer */

/**
 * @typedef {"unauthorized" | "tooLarge" | "invalid" | "busy" | "loading" | "timeout" | "offline" | "notJson"
 *   | "malformed" | "notFound" | "server" | "badKey" | "full"} ProblemKind
 */

const SLICE_DOCUMENTS = 128;
const SLICE_CHARACTERS = 400_000;
/** Bytes that a character takes at most: JSON writes some as `\u0000`. */
const BYTES_A_CHARACTER = 6;
const PARALLEL_SLICES = 2;
const TIMEOUT_MS = 300_000;
const STATUS_TIMEOUT_MS = 8_000;

const KIND_OF_STATUS = new Map(
  /** @type {[number, ProblemKind][]} */ ([
    [400, "invalid"],
    [401, "unauthorized"],
    [403, "unauthorized"],
    [404, "notFound"],
    [405, "notFound"],
    [408, "timeout"],
    [409, "invalid"],
    [413, "tooLarge"],
    [415, "invalid"],
    [422, "invalid"],
    [429, "busy"],
    [503, "loading"],
    [504, "timeout"],
    [507, "full"],
  ]),
);

/** A request that gave no usable answer. */
export class ServiceProblem extends Error {
  /**
   * @param {ProblemKind} kind
   * @param {{status?: number, retryAfterS?: number | null, detail?: string, requestId?: string}} [more] `detail` is
   *   the service's own sentence
   */
  constructor(kind, { status = 0, retryAfterS = null, detail = "", requestId = "" } = {}) {
    super(`${kind} ${status} ${detail}`.trim());
    this.kind = kind;
    this.status = status;
    this.retryAfterS = retryAfterS;
    this.detail = detail;
    this.requestId = requestId;
  }
}

/** The person cancelled. */
export class Cancelled extends Error {}

/**
 * Whether the model answers, and what the service says to it; never throws.
 * @returns {Promise<{readiness: "ready" | "loading" | "offline", said: Record<string, any>}>}
 */
export async function fetchReadiness() {
  try {
    const response = await fetch("ready", { cache: "no-store", signal: AbortSignal.timeout(STATUS_TIMEOUT_MS) });
    const said = parsed(await response.text()) ?? {};
    if (response.ok) return { readiness: "ready", said };
    return { readiness: response.status === 503 ? "loading" : "offline", said };
  } catch {
    return { readiness: "offline", said: {} };
  }
}

/**
 * What is loaded.
 * @param {string} key
 * @returns {Promise<Record<string, any>>}
 * @throws {ServiceProblem}
 */
export async function fetchInfo(key) {
  return request("info", { method: "GET", key, timeoutMs: STATUS_TIMEOUT_MS });
}

/**
 * Score every document for one query.
 * @param {{query: string, instruction: string, documents: string[]}} task
 * @param {object} [options]
 * @param {string} [options.key]
 * @param {AbortSignal} [options.signal] cancels
 * @param {(numDone: number) => void} [options.onProgress]
 * @param {Limits} [options.limits] what the service takes
 * @param {number} [options.timeoutMs] for each slice
 * @returns {Promise<Answer>} scores in no particular order
 * @throws {ServiceProblem | Cancelled}
 */
export async function scoreAll(
  task,
  { key = "", signal, onProgress = () => {}, limits = {}, timeoutMs = TIMEOUT_MS } = {},
) {
  const stop = new AbortController();
  const slices = slicesOf(task.documents, limits);
  const gathered = /** @type {Answer} */ ({ model: "", scored: [], numTokens: 0, calibrated: null });
  const takeSlices = async () => {
    for (let slice = slices.shift(); slice; slice = slices.shift()) {
      const body = requestBody(task, slice);
      const signals = signal ? [signal, stop.signal] : [stop.signal];
      const answer = await request("api/rerank", { method: "POST", key, body, signal: AbortSignal.any(signals), timeoutMs });
      const read = readAnswer(answer, slice);
      gathered.scored.push(...read.scored);
      gathered.model = read.model;
      gathered.numTokens += read.numTokens;
      gathered.calibrated = read.calibrated;
      onProgress(gathered.scored.length);
    }
  };
  try {
    await Promise.all(Array.from({ length: PARALLEL_SLICES }, takeSlices));
  } finally {
    stop.abort();
  }
  return gathered;
}

/** @typedef {{max_documents?: number, max_body_bytes?: number}} Limits as `info` reports them */

/**
 * Consecutive pieces that each fit a request.
 * @param {string[]} documents
 * @param {Limits} [limits]
 * @returns {{start: number, documents: string[]}[]}
 */
export function slicesOf(documents, { max_documents = Infinity, max_body_bytes = Infinity } = {}) {
  const mostDocuments = Math.min(SLICE_DOCUMENTS, max_documents);
  const mostCharacters = Math.min(SLICE_CHARACTERS, max_body_bytes / BYTES_A_CHARACTER);
  const slices = [];
  let slice = { start: 0, documents: /** @type {string[]} */ ([]) };
  let characters = 0;
  documents.forEach((text, index) => {
    const full = slice.documents.length >= mostDocuments || characters + text.length > mostCharacters;
    if (full && slice.documents.length) {
      slices.push(slice);
      slice = { start: index, documents: [] };
      characters = 0;
    }
    slice.documents.push(text);
    characters += text.length;
  });
  if (slice.documents.length) slices.push(slice);
  return slices;
}

/**
 * @param {{query: string, instruction: string}} task
 * @param {{documents: string[]}} slice
 */
export function requestBody(task, slice) {
  const body = { queries: [wellFormed(task.query)], documents: [slice.documents.map(wellFormed)], return_documents: false };
  return task.instruction ? { ...body, instruction: wellFormed(task.instruction) } : body;
}

/**
 * @param {any} answer
 * @param {{start: number, documents: string[]}} slice
 * @returns {Answer}
 */
function readAnswer(answer, slice) {
  const entries = answer?.results?.[0]?.results;
  const seen = new Set();
  const fits = (/** @type {any} */ entry) => {
    const index = entry?.index;
    const inside = Number.isInteger(index) && index >= 0 && index < slice.documents.length && !seen.has(index);
    seen.add(index);
    return inside && Number.isFinite(entry.relevance_score);
  };
  if (!Array.isArray(entries) || entries.length !== slice.documents.length || !entries.every(fits)) {
    throw new ServiceProblem("malformed");
  }
  return {
    model: typeof answer.model === "string" ? answer.model : "",
    scored: entries.map((entry) => readEntry(entry, slice.start)),
    numTokens: Number(answer.usage?.total_tokens ?? 0) || 0,
    calibrated: typeof answer.calibrated === "boolean" ? answer.calibrated : null,
  };
}

/**
 * @param {any} entry
 * @param {number} start
 * @returns {Scored}
 */
function readEntry(entry, start) {
  const span = Array.isArray(entry.span) && entry.span.length === 2 && entry.span.every(Number.isInteger);
  return {
    index: start + entry.index,
    score: entry.relevance_score,
    logOdds: Number.isFinite(entry.log_odds) ? entry.log_odds : null,
    truncated: entry.truncated === true,
    queryTruncated: entry.query_truncated === true,
    span: span ? entry.span : null,
  };
}

/**
 * @param {string} address relative
 * @param {{method: string, key: string, timeoutMs: number, body?: unknown, signal?: AbortSignal}} options `body`: a
 *   file, or a value to be sent as JSON
 */
export async function request(address, { method, key, timeoutMs, body, signal }) {
  const timeout = AbortSignal.timeout(timeoutMs);
  const both = signal ? AbortSignal.any([signal, timeout]) : timeout;
  const isRaw = body === undefined || body instanceof Blob;
  try {
    const headers = requestHeaders(key, !isRaw);
    const sent = isRaw ? body : JSON.stringify(body);
    const response = await fetch(address, { method, headers, body: sent, signal: both, cache: "no-store" });
    return await readResponse(response);
  } catch (error) {
    if (error instanceof ServiceProblem) throw error;
    if (signal?.aborted) throw new Cancelled();
    throw new ServiceProblem(timeout.aborted ? "timeout" : "offline");
  }
}

/**
 * @param {string} key
 * @param {boolean} hasBody
 */
export function requestHeaders(key, hasBody) {
  if (key && !/^[\x21-\x7e]+$/.test(key)) throw new ServiceProblem("badKey");
  return {
    ...(hasBody ? { "Content-Type": "application/json" } : {}),
    ...(key ? { Authorization: `Bearer ${key}` } : {}),
  };
}

/** @param {Response} response */
async function readResponse(response) {
  return answerValue(response.status, await response.text(), (name) => response.headers.get(name));
}

/**
 * The value of an answer, or the problem that it is.
 * @param {number} status
 * @param {string} text
 * @param {(name: string) => string | null} header
 * @throws {ServiceProblem}
 */
export function answerValue(status, text, header) {
  const isGood = status >= 200 && status < 300;
  if (status === 204) return null;
  const value = parsed(text);
  if (isGood && value !== undefined) return value;
  if (isGood) throw new ServiceProblem("notJson", { status });
  throw new ServiceProblem(KIND_OF_STATUS.get(status) ?? "server", {
    status,
    retryAfterS: retryAfterSeconds(header("Retry-After"), Date.now()),
    detail: typeof value?.message === "string" ? value.message.slice(0, 500) : "",
    requestId: header("X-Request-Id") ?? "",
  });
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * Seconds to wait, of a header that holds seconds or a date.
 * @param {string | null} value
 * @param {number} nowMs
 */
export function retryAfterSeconds(value, nowMs) {
  if (!value) return null;
  const seconds = /^\d+(\.\d+)?$/.test(value.trim()) ? Number(value) : (Date.parse(value) - nowMs) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : null;
}
