/**
 * Numbers beside a text field's lines, so that a wrapped line is not taken for a new one. The lines stand once more in an
 * unseen list that wraps as the field does; style sheets number them. Knows no documents' meaning.
 */

import { element } from "./dom.js";

/** Above this, laying out the text a second time is felt. */
const MOST_NUMBERED = { lines: 10_000, length: 1_000_000 };

/**
 * @param {HTMLTextAreaElement} field
 * @param {HTMLElement} list lies over the field
 * @returns {() => void} to be called when the field's value has changed
 */
export function setUpLineNumbers(field, list) {
  /** @type {string[]} */
  let shown = [];
  const follow = () => {
    // Without the scrollbar, which comes and goes.
    list.style.width = `${field.clientWidth}px`;
    list.style.transform = `translateY(${-field.scrollTop}px)`;
  };
  const show = () => {
    const lines = field.value.length > MOST_NUMBERED.length ? [] : field.value.split("\n");
    if (lines.length > MOST_NUMBERED.lines) lines.length = 0;
    replaceChanged(list, shown, lines);
    shown = lines;
    follow();
  };
  field.addEventListener("scroll", follow, { passive: true });
  new ResizeObserver(follow).observe(field);
  return show;
}

/**
 * Replace only the lines between the first and the last that differ.
 * @param {HTMLElement} list
 * @param {string[]} before
 * @param {string[]} after
 */
function replaceChanged(list, before, after) {
  const shorter = Math.min(before.length, after.length);
  let head = 0;
  while (head < shorter && before[head] === after[head]) head += 1;
  let tail = 0;
  while (tail < shorter - head && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail += 1;
  const next = list.children[before.length - tail] ?? null;
  for (let at = before.length - tail; at > head; at -= 1) list.children[at - 1].remove();
  const added = after.slice(head, after.length - tail).map(lineOf);
  if (next) next.before(...added);
  else list.append(...added);
}

/** @param {string} text */
function lineOf(text) {
  // A line feed gives an empty line its height, and adds none to others.
  return element("div", text.trim() === "" ? {} : { class: "filled" }, `${text}\n`);
}
