/**
 * What outlives a reload: the input and the preferences in this browser, the key only in this tab.
 * Storage may be switched off or full; then the page works without it. Knows no elements.
 */

import { oneLine } from "./text.js";

const INPUT = "qwen-rerank.input";
const PREFERENCES = "qwen-rerank.preferences";
const KEY = "qwen-rerank.key";
const DEMO_CLOSED = "qwen-rerank.demo-closed";

/** @typedef {{query: string, instruction: string, second: string | null, documents: string}} Input `second`: the instruction to compare with, if any */
/** @typedef {{language?: "zh" | "en", theme?: "light" | "dark"}} Preferences */

/** @returns {Input | null} */
export function loadInput() {
  const saved = read(INPUT);
  if (saved === null) return null;
  const second = typeof saved.second === "string" ? saved.second : null;
  return { query: text(saved.query), instruction: text(saved.instruction), second, documents: text(saved.documents) };
}

/**
 * @param {Input} input
 * @returns {boolean} whether it was kept; too much text is not
 */
export function saveInput(input) {
  return write(INPUT, input);
}

/** Forget the input. */
export function clearInput() {
  try {
    localStorage.removeItem(INPUT);
  } catch {
    // Nothing was stored.
  }
}

/**
 * Take the input that a link holds, and remove it from the address. It is in the fragment, which is never sent to a server:
 * `#query=…&document=…&document=…&instruction=…`; a second `instruction` is to be compared with.
 * @returns {Input | null}
 */
export function takeLinkedInput() {
  const fields = new URLSearchParams(location.hash.slice(1));
  if (!fields.has("query")) return null;
  history.replaceState(null, "", location.pathname + location.search);
  const [instruction = "", second = null] = fields.getAll("instruction");
  return {
    query: text(fields.get("query")),
    instruction,
    second,
    documents: fields.getAll("document").map(oneLine).join("\n"),
  };
}

/** @returns {Preferences} */
export function loadPreferences() {
  const { language, theme } = read(PREFERENCES) ?? {};
  return {
    ...(language === "zh" || language === "en" ? { language } : {}),
    ...(theme === "light" || theme === "dark" ? { theme } : {}),
  };
}

/** @param {Preferences} change */
export function savePreferences(change) {
  write(PREFERENCES, { ...loadPreferences(), ...change });
}

/** The service's key, as long as the tab is open. */
export function loadKey() {
  return readTab(KEY);
}

/** @param {string} key empty to forget it */
export function saveKey(key) {
  writeTab(KEY, key);
}

/** Whether the words about the demo model were closed in this tab. */
export function loadDemoClosed() {
  return readTab(DEMO_CLOSED) !== "";
}

/** Remember, as long as the tab is open, that the words about the demo model were closed. */
export function saveDemoClosed() {
  writeTab(DEMO_CLOSED, "yes");
}

/** @param {string} name */
function readTab(name) {
  try {
    return sessionStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}

/**
 * @param {string} name
 * @param {string} value empty to forget it
 */
function writeTab(name, value) {
  try {
    if (value) sessionStorage.setItem(name, value);
    else sessionStorage.removeItem(name);
  } catch {
    // It is then asked for, or shown, again after a reload.
  }
}

/** @param {string} name */
function read(name) {
  try {
    const value = JSON.parse(localStorage.getItem(name) ?? "null");
    return value !== null && typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

/**
 * @param {string} name
 * @param {unknown} value
 */
function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** @param {unknown} value */
function text(value) {
  return typeof value === "string" ? value : "";
}
