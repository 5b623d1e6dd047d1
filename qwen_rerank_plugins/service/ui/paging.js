/**
 * A long list, shown a page at a time: more is added when its end comes into view or a button is pressed, so that
 * thousands of rows never hold up the page. Knows nothing of what a row is.
 */

import { element } from "./dom.js";
import { t } from "./i18n.js";

/**
 * @template T
 * @param {object} options
 * @param {Element} options.container takes the rows
 * @param {T[]} options.items
 * @param {(item: T) => Element} options.build
 * @param {number} options.pageSize
 * @returns {HTMLElement} what stands below the rows: how many are shown, and the button for more
 */
export function showPaged({ container, items, build, pageSize }) {
  let numShown = 0;
  const count = element("span", { class: "muted" });
  const button = element("button", { type: "button", class: "small", click: () => more() });
  const foot = element("div", { class: "paging" }, count, button);
  const observer = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) more();
  });

  const more = () => {
    const page = items.slice(numShown, numShown + pageSize);
    container.append(...page.map(build));
    numShown += page.length;
    const left = items.length - numShown;
    count.textContent = t("shown", { done: numShown, n: items.length });
    button.textContent = t("showMore", { n: Math.min(left, pageSize) });
    foot.hidden = items.length <= pageSize;
    button.hidden = left === 0;
    observer.disconnect();
    // Observing anew reports the present state, which asks for the next page while the end is still in view.
    if (left > 0) observer.observe(button);
  };
  more();
  return foot;
}
