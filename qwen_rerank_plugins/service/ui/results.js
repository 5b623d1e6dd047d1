/**
 * The right column: what the last run gave, in the view that is chosen. A view is built, and its code loaded, when it
 * is first looked at. Knows no service and no input fields.
 */

import { byId, element } from "./dom.js";
import { t } from "./i18n.js";
import { setUpTabs } from "./tabs.js";

/** @typedef {import("./ranking.js").Row} Row */
/**
 * @typedef {object} Outcome
 * @property {string} query
 * @property {Row[]} rows best first
 * @property {Row[] | null} second the same documents by the second instruction
 * @property {string[]} instructions one or two; empty for the default
 * @property {string} model
 * @property {number} seconds
 * @property {number} numTokens
 * @property {boolean | null} calibrated whether all probabilities are; null if the service has no calibration
 */

/** @typedef {import("./threshold.js").Cut} Cut */
/** @typedef {Outcome & {cut: Cut, onCut: (cut: Cut) => void, onFind: (index: number) => void}} Around */
/** @typedef {(panel: HTMLElement, rows: Row[], around: Around) => void} View */

/** @type {Cut} */
const UNCUT = { kept: Infinity, minScore: 0 };

/** @type {Record<string, () => Promise<View>>} by panel */
const VIEWS = {
  "panel-cards": async () => (await import("./cards.js")).showCards,
  "panel-table": async () => (await import("./grid.js")).showGrid,
  "panel-chart": async () => (await import("./chart.js")).showChart,
  "panel-compare": async () => (await import("./compare.js")).showComparison,
};

/**
 * @param {object} options
 * @param {(index: number) => void} options.onFind asked to show a document in the input
 * @param {() => void} options.onMissing a view's code could not be loaded
 * @param {(panel: HTMLElement) => Promise<void>} options.onBatch the panel that shows no outcome is looked at
 */
export function setUpResults({ onFind, onMissing, onBatch }) {
  /** @type {Outcome | null} */
  let outcome = null;
  let isStale = false;
  let cut = UNCUT;
  const outdated = new Set(Object.keys(VIEWS));

  const onCut = (/** @type {Cut} */ wanted) => {
    cut = wanted;
    outdated.add("panel-cards").add("panel-table");
  };
  const build = async (/** @type {HTMLElement} */ panel) => {
    if (!(panel.id in VIEWS)) return onBatch(panel).catch(onMissing);
    if (!outdated.delete(panel.id)) return;
    if (!outcome) return panel.replaceChildren(emptyNote());
    const wanted = outcome;
    panel.setAttribute("aria-busy", "true");
    const show = await VIEWS[panel.id]().catch(() => null);
    panel.removeAttribute("aria-busy");
    if (show === null) {
      outdated.add(panel.id);
      onMissing();
    } else if (outcome === wanted) {
      show(panel, outcome.rows, { ...outcome, cut, onCut, onFind });
    }
  };
  const visiblePanel = setUpTabs(byId("results").querySelector('[role="tablist"]'), build);

  const refresh = () => {
    for (const id of Object.keys(VIEWS)) outdated.add(id);
    build(visiblePanel());
    showSummary();
  };
  const showSummary = () => {
    const box = byId("summary");
    box.hidden = outcome === null;
    if (outcome) box.replaceChildren(...summaryParts(outcome, isStale));
  };
  return {
    refresh,
    minScore: () => cut.minScore,
    /** @param {Outcome} latest */
    show(latest) {
      outcome = latest;
      isStale = false;
      cut = UNCUT;
      const { id } = visiblePanel();
      const compares = byId("tab-compare");
      const isNew = compares.hidden;
      compares.hidden = latest.second === null;
      if (isNew && !compares.hidden) compares.click();
      else if (!(id in VIEWS) || (compares.hidden && id === "panel-compare")) byId("tab-cards").click();
      refresh();
    },
    /** @param {boolean} stale whether the input has changed since */
    markStale(stale) {
      if (stale === isStale) return;
      isStale = stale;
      showSummary();
    },
  };
}

function emptyNote() {
  return element(
    "div",
    { class: "empty" },
    element("p", { class: "empty-title" }, t("emptyTitle")),
    element("p", { class: "muted" }, t("emptyText")),
  );
}

/**
 * @param {Outcome} outcome
 * @param {boolean} isStale
 */
function summaryParts({ rows, model, seconds, numTokens, calibrated }, isStale) {
  return [
    ...(model ? [element("strong", {}, model)] : []),
    element("span", {}, t("summary", { n: rows.length, seconds: seconds.toFixed(2) })),
    ...(numTokens ? [element("span", {}, t("summaryTokens", { n: numTokens }))] : []),
    ...(calibrated === null ? [] : [element("span", { class: "tag" }, t(calibrated ? "calibrated" : "uncalibrated"))]),
    ...(isStale ? [element("span", { class: "tag stale" }, t("stale"))] : []),
  ];
}
