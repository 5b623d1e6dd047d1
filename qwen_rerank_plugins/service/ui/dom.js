/**
 * Building elements. Text only ever becomes a text node, so nothing a user or the service sends is read as markup.
 * Knows nothing of rankings or languages.
 */

/** Whether the window has one column. */
export const NARROW = matchMedia("(max-width: 899px)");

const SVG = "http://www.w3.org/2000/svg";

/**
 * The element with an id that index.html is known to have.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element has the id ${JSON.stringify(id)}`);
  return found;
}

/**
 * A new HTML element.
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes] `class`, `hidden`, `aria-…`; a function is a listener (`click`)
 * @param {...(Node | string)} children strings become text nodes
 * @returns {any}
 */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/**
 * A new SVG element.
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes]
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function svgElement(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/**
 * @param {Element} target
 * @param {Record<string, unknown>} attributes
 * @param {(Node | string)[]} children
 */
function fill(target, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") target.addEventListener(name, /** @type {EventListener} */ (value));
    else if (value === true) target.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) target.setAttribute(name, String(value));
  }
  target.append(...children);
  return target;
}

/**
 * Call a function once the calls have paused, with the last call's arguments.
 * @template {unknown[]} A
 * @param {(...args: A) => void} action
 * @param {number} pauseMs
 */
export function debounced(action, pauseMs) {
  let timer = 0;
  return (/** @type {A} */ ...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), pauseMs);
  };
}
