/**
 * A list of tabs after the ARIA pattern: one tab stop, arrow keys move and choose. Knows nothing of the panels' content.
 */

/**
 * @param {HTMLElement} list holds the tabs; each names its panel by `aria-controls`
 * @param {(panel: HTMLElement) => void} onChoose called with the panel that became visible
 * @returns {() => HTMLElement} the visible panel
 */
export function setUpTabs(list, onChoose) {
  const tabs = /** @type {HTMLElement[]} */ ([...list.querySelectorAll('[role="tab"]')]);
  const shown = () => tabs.filter((tab) => !tab.hidden);
  const panelOf = (/** @type {HTMLElement} */ tab) =>
    /** @type {HTMLElement} */ (document.getElementById(tab.getAttribute("aria-controls") ?? ""));
  let chosen = tabs[0];

  const choose = (/** @type {HTMLElement} */ wanted) => {
    for (const tab of tabs) {
      const isWanted = tab === wanted;
      tab.setAttribute("aria-selected", String(isWanted));
      tab.tabIndex = isWanted ? 0 : -1;
      panelOf(tab).hidden = !isWanted;
    }
    chosen = wanted;
    onChoose(panelOf(wanted));
  };

  list.addEventListener("click", (event) => {
    const tab = /** @type {Element} */ (event.target).closest('[role="tab"]');
    if (tab) choose(/** @type {HTMLElement} */ (tab));
  });
  list.addEventListener("keydown", (event) => {
    const order = shown();
    const at = order.indexOf(chosen);
    const goal = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: order.length - 1 }[event.key];
    if (goal === undefined) return;
    event.preventDefault();
    choose(order[(goal + order.length) % order.length]);
    chosen.focus();
  });
  return () => panelOf(chosen);
}
