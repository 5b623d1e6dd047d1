/**
 * Upload jobs as the service has them: sending a file with progress, asking how jobs are, fetching what they gave.
 * Knows no elements and no languages.
 */

import { answerValue, Cancelled, request, requestHeaders, ServiceProblem } from "./api.js";

const ASK_TIMEOUT_MS = 20_000;
const DOWNLOAD_TIMEOUT_MS = 3_600_000;

/** @type {Record<string, string>} by the end of a file's name */
const TYPES = {
  csv: "text/csv",
  tsv: "text/tab-separated-values",
  json: "application/x-ndjson",
  jsonl: "application/x-ndjson",
  ndjson: "application/x-ndjson",
  parquet: "application/vnd.apache.parquet",
};

/**
 * @typedef {object} Job as the service reports it
 * @property {string} id
 * @property {"queued" | "running" | "done" | "failed"} state
 * @property {string} name
 * @property {string} output_format
 * @property {number | null} num_ahead
 * @property {number | null} num_written
 * @property {number | null} num_warned
 * @property {number | null} rejected_bytes
 * @property {{options: ("encoding" | "delimiter")[], encoding: string, delimiter: string | null, texts: string[]} | null} guess
 * @property {number | null} expires
 * @property {{phase: string, fraction: number, num_rows: number, num_rejected: number, pairs_per_s: number | null,
 *   seconds_left: number | null}} progress
 * @property {{message: string} | null} problem
 */

/**
 * The type under which a file is sent, or null for one that is not taken.
 * @param {string} name
 */
export function uploadType(name) {
  return TYPES[name.slice(name.lastIndexOf(".") + 1).toLowerCase()] ?? null;
}

/**
 * Send a file; `fetch` could not tell how far it is.
 * @param {File} file
 * @param {Record<string, string>} parameters empty ones are left out
 * @param {{key: string, signal: AbortSignal, onProgress: (numBytes: number) => void}} options
 * @returns {Promise<Job>}
 * @throws {ServiceProblem | Cancelled}
 */
export function uploadFile(file, parameters, { key, signal, onProgress }) {
  const given = Object.entries({ name: file.name, ...parameters }).filter(([, value]) => value !== "");
  const headers = { ...requestHeaders(key, false), "Content-Type": uploadType(file.name) ?? "" };
  const sending = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    sending.upload.addEventListener("progress", (event) => onProgress(event.loaded));
    sending.addEventListener("load", () => {
      try {
        resolve(answerValue(sending.status, sending.responseText, (name) => sending.getResponseHeader(name)));
      } catch (error) {
        reject(error);
      }
    });
    sending.addEventListener("error", () => reject(new ServiceProblem("offline")));
    sending.addEventListener("abort", () => reject(new Cancelled()));
    signal.addEventListener("abort", () => sending.abort());
    sending.open("POST", `v1/jobs?${new URLSearchParams(given)}`);
    for (const [name, value] of Object.entries(headers)) sending.setRequestHeader(name, value);
    sending.send(file);
  });
}

/**
 * The key's jobs, the newest first.
 * @param {string} key
 * @returns {Promise<Job[]>}
 * @throws {ServiceProblem}
 */
export async function fetchJobs(key) {
  const answer = await request("v1/jobs", { method: "GET", key, timeoutMs: ASK_TIMEOUT_MS });
  if (!Array.isArray(answer?.data)) throw new ServiceProblem("malformed");
  return answer.data;
}

/**
 * Cancel a job and delete its files.
 * @param {string} id
 * @param {string} key
 * @throws {ServiceProblem}
 */
export async function removeJob(id, key) {
  await request(`v1/jobs/${id}`, { method: "DELETE", key, timeoutMs: ASK_TIMEOUT_MS });
}

/**
 * Where a job's file is.
 * @param {string} id
 * @param {"result" | "rejected"} part
 */
export function fileAddress(id, part) {
  return `v1/jobs/${id}/${part}`;
}

/**
 * A job's file, where a key has to be sent along, which a plain link cannot.
 * @param {string} address
 * @param {string} key
 * @returns {Promise<Blob>}
 * @throws {ServiceProblem}
 */
export async function fetchFile(address, key) {
  const signal = AbortSignal.timeout(DOWNLOAD_TIMEOUT_MS);
  let response;
  try {
    response = await fetch(address, { headers: requestHeaders(key, false), cache: "no-store", signal });
    if (response.ok) return await response.blob();
  } catch {
    throw new ServiceProblem("offline");
  }
  const { status, headers } = response;
  return answerValue(status, await response.text(), (name) => headers.get(name));
}
