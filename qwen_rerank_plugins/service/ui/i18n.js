/**
 * The page's language: which one, and sentences and numbers in it. The sentences themselves are in a file a language,
 * which is loaded when it is first wanted.
 */

/** @typedef {"zh" | "en"} Language */

/** @type {Language} */
let current = "en";
/** @type {Partial<Record<Language, Record<string, string>>>} */
const loaded = {};
const listeners = new Set();

/** @returns {Language} */
export function language() {
  return current;
}

/** The language as a BCP 47 tag. */
export function locale() {
  return current === "zh" ? "zh-CN" : "en";
}

/**
 * The remembered language, or the browser's.
 * @param {Language | undefined} remembered
 * @returns {Language}
 */
export function preferredLanguage(remembered) {
  return remembered ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
}

/**
 * Put the page into a language.
 * @param {Language} wanted
 * @throws {TypeError} its sentences could not be loaded; the page stays as it is
 */
export async function setLanguage(wanted) {
  loaded[wanted] ??= (await import(`./messages.${wanted}.js`)).MESSAGES;
  current = wanted;
  document.documentElement.lang = locale();
  document.title = t("title");
  translate(document.body);
  for (const listener of listeners) listener();
}

/**
 * Call a function after each change of language.
 * @param {() => void} listener
 */
export function onLanguage(listener) {
  listeners.add(listener);
}

/**
 * A sentence. `{name}` stands for a value, `{name|one|other}` for a word that follows a number.
 * @param {string} key
 * @param {Record<string, string | number>} [values] numbers are written as the language does
 */
export function t(key, values = {}) {
  const sentence = loaded[current]?.[key];
  if (sentence === undefined) throw new Error(`no message has the key ${JSON.stringify(key)}`);
  return sentence.replace(/\{(\w+)(?:\|([^|}]*)\|([^|}]*))?\}/g, (_, name, one, other) => {
    const value = values[name];
    if (one !== undefined) return value === 1 ? one : other;
    return typeof value === "number" ? number(value) : String(value);
  });
}

/**
 * A whole number with its groups of thousands.
 * @param {number} value
 */
export function number(value) {
  return value.toLocaleString(locale(), { maximumFractionDigits: 1 });
}

/**
 * A probability, four digits wide; what would round to nothing keeps its size.
 * @param {number} value
 */
export function score(value) {
  return value === 0 || Math.abs(value) >= 0.00005 ? value.toFixed(4) : value.toExponential(1);
}

/**
 * A difference of scores in words' precision: two digits, or one that still differs from zero.
 * @param {number} value
 */
export function difference(value) {
  return value === 0 || Math.abs(value) >= 0.005 ? value.toFixed(2) : value.toPrecision(1);
}

/**
 * Fill in what index.html marks: `data-text="key"`, and `data-label="key"` or `data-hint="key"` for attributes.
 * @param {Element} root
 */
function translate(root) {
  const attributes = { label: "aria-label", hint: "placeholder", tip: "title" };
  for (const node of root.querySelectorAll("[data-text]")) {
    node.textContent = t(/** @type {HTMLElement} */ (node).dataset.text ?? "");
  }
  for (const [mark, attribute] of Object.entries(attributes)) {
    for (const node of root.querySelectorAll(`[data-${mark}]`)) {
      node.setAttribute(attribute, t(/** @type {HTMLElement} */ (node).dataset[mark] ?? ""));
    }
  }
}
