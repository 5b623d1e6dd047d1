/**
 * The score curve with its words, and inspecting it by pointer and keyboard. A slider lies over the drawing: it is one
 * tab stop however many documents there are, and announces each document to a screen reader as it moves.
 */

import { drawCurve, drawStrip, frameOf, HEIGHT } from "./curve.js";
import { element } from "./dom.js";
import { difference, number, score, t } from "./i18n.js";
import { clearestScale, hasLogOdds, logOddsOf, scoreOf } from "./ranking.js";
import { shapeOf } from "./shape.js";
import { shortened } from "./text.js";
import { thresholdOf } from "./threshold.js";

/** @typedef {import("./ranking.js").Row} Row */
/** @typedef {"probability" | "logOdds"} Scale */

const TEXT_LENGTH = 120;
const PAGE_STEP = 10;

/** @type {Scale | null} what was chosen, kept from one ranking to the next; null for the clearest */
let chosenScale = null;

/**
 * @param {HTMLElement} panel
 * @param {Row[]} rows best first
 * @param {import("./results.js").Around} around
 */
export function showChart(panel, rows, around) {
  let { cut } = around;
  const onCut = (/** @type {import("./threshold.js").Cut} */ wanted) => {
    cut = wanted;
    around.onCut(wanted);
  };
  const hasChoice = hasLogOdds(rows);
  const scale = (hasChoice && chosenScale) || clearestScale(rows);
  const values = rows.map(scale === "logOdds" ? logOddsOf : scoreOf);
  const shape = shapeOf(values, scale);
  const words = sentence(values, shape, rows[1]?.tied);
  const figure = element("div", { class: "chart" });
  panel.replaceChildren(
    element("p", { class: "words" }, words),
    ...(hasChoice ? [scaleChoice(scale, () => showChart(panel, rows, { ...around, cut }))] : []),
    figure,
  );
  keepDrawn(figure, (width) => draw(figure, { rows, values, scale, shape, words, width, cut, onCut }));
}

/**
 * Draw now and whenever the width changes.
 * @param {HTMLElement} figure
 * @param {(width: number) => void} redraw
 */
function keepDrawn(figure, redraw) {
  let drawn = 0;
  const observer = new ResizeObserver(() => {
    if (!figure.isConnected) observer.disconnect();
    const width = Math.floor(figure.clientWidth);
    if (width === 0 || width === drawn) return;
    drawn = width;
    redraw(width);
  });
  observer.observe(figure);
}

/**
 * How far the first stands ahead, and where scores fall off.
 * @param {number[]} values best first
 * @param {import("./shape.js").Shape} shape
 * @param {boolean} tied whether the second is practically equal to the first
 */
function sentence(values, { lead, drop }, tied) {
  if (lead === null || drop === null) return t("single", { value: score(values[0]) });
  if (drop.size === 0) return t("dropFlat");
  const separator = t("separator");
  const ahead = tied ? t("leadTie") : t("lead", { value: difference(lead) });
  const steps = drop.notable
    ? t("dropAfter", { rank: drop.afterRank, from: difference(drop.from), to: difference(drop.to) })
    : t("dropNone", { rank: drop.afterRank, value: difference(drop.size) });
  return ahead + separator + steps;
}

/**
 * @param {Scale} scale
 * @param {() => void} onChange
 */
function scaleChoice(scale, onChange) {
  const option = (/** @type {Scale} */ value, /** @type {string} */ label) =>
    element("option", { value, selected: value === scale }, t(label));
  const choose = (/** @type {Event} */ event) => {
    chosenScale = /** @type {Scale} */ (/** @type {HTMLSelectElement} */ (event.target).value);
    onChange();
    document.getElementById("scale")?.focus();
  };
  return element(
    "div",
    { class: "toolbar" },
    element("label", { for: "scale", class: "muted" }, t("scale")),
    element(
      "select",
      { id: "scale", change: choose },
      option("probability", "scaleProbability"),
      option("logOdds", "scaleLogOdds"),
    ),
  );
}

/**
 * @param {HTMLElement} figure
 * @param {{rows: Row[], values: number[], scale: Scale, shape: import("./shape.js").Shape, words: string, width: number, cut: import("./threshold.js").Cut, onCut: (cut: import("./threshold.js").Cut) => void}} plot
 */
function draw(figure, { rows, values, scale, shape, words, width, cut, onCut }) {
  const frame = frameOf(values, width, scale);
  const curve = drawCurve({ values, frame, shape, title: t("chartTitle"), description: words });
  const threshold = thresholdOf({ rows, values, frame, cut, onCut });
  const strip = drawStrip(rows, values, width);
  const tooltip = element("div", { class: "tooltip", hidden: true });
  const slider = element("div", {
    class: "inspector",
    role: "slider",
    tabindex: "0",
    "aria-label": t("inspect"),
    "aria-valuemin": 1,
    "aria-valuemax": rows.length,
  });
  const inspect = inspector({ rows, values, frame, curve, slider, tooltip });
  inspect.show(1);
  inspect.hide();
  listen(slider, inspect, (x) => frame.rankAt(x), rows.length);
  strip.drawing.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => inspect.show(strip.rankAt(event.offsetX)));
  strip.drawing.addEventListener("pointerleave", inspect.hide);
  figure.replaceChildren(
    element("div", { class: "plot" }, curve, slider, threshold.line, tooltip),
    threshold.words,
    element("p", { class: "muted strip-name", "aria-hidden": "true" }, t("stripTitle")),
    strip.drawing,
    element(
      "div",
      { class: "strip-ends muted", "aria-hidden": "true" },
      element("span", {}, t("stripFirst")),
      element("span", {}, t("stripLast", { n: rows.length })),
    ),
  );
}

/**
 * @param {{rows: Row[], values: number[], frame: import("./curve.js").Frame, curve: SVGElement, slider: HTMLElement, tooltip: HTMLElement}} parts
 */
function inspector({ rows, values, frame, curve, slider, tooltip }) {
  const cursor = /** @type {Element} */ (curve.querySelector(".cursor"));
  const show = (/** @type {number} */ rank) => {
    const row = rows[rank - 1];
    const [x, y] = [frame.x(rank), frame.y(values[rank - 1])];
    const value = score(values[rank - 1]);
    const text = shortened(row.text, TEXT_LENGTH);
    cursor.setAttribute("cx", String(x));
    cursor.setAttribute("cy", String(y));
    cursor.setAttribute("visibility", "visible");
    slider.setAttribute("aria-valuenow", String(rank));
    slider.setAttribute("aria-valuetext", t("inspectValue", { rank, value, index: row.index + 1, text }));
    tooltip.replaceChildren(
      element("strong", {}, `#${number(rank)}  ${value}`),
      element("span", { class: "tooltip-index" }, t("original", { n: row.index + 1 })),
      element("span", { class: "tooltip-text", dir: "auto" }, text),
    );
    tooltip.hidden = false;
    place(tooltip, x, y, frame.width);
  };
  const hide = () => {
    tooltip.hidden = true;
    cursor.setAttribute("visibility", "hidden");
  };
  return { show, hide, rank: () => Number(slider.getAttribute("aria-valuenow")) };
}

/**
 * Beside the point, on the side that has room.
 * @param {HTMLElement} tooltip
 * @param {number} x
 * @param {number} y
 * @param {number} width
 */
function place(tooltip, x, y, width) {
  const isRight = x > width / 2;
  tooltip.style.left = isRight ? "auto" : `${x + 12}px`;
  tooltip.style.right = isRight ? `${width - x + 12}px` : "auto";
  tooltip.style.maxWidth = `${Math.max(140, Math.min(340, (isRight ? x : width - x) - 24))}px`;
  tooltip.style.top = `${Math.min(Math.max(0, y - 20), HEIGHT - 110)}px`;
}

/**
 * @param {HTMLElement} slider
 * @param {{show: (rank: number) => void, hide: () => void, rank: () => number}} inspect
 * @param {(x: number) => number} rankAt
 * @param {number} count
 */
function listen(slider, inspect, rankAt, count) {
  slider.addEventListener("pointermove", (event) => inspect.show(rankAt(event.offsetX)));
  slider.addEventListener("pointerdown", (event) => inspect.show(rankAt(event.offsetX)));
  slider.addEventListener("pointerleave", inspect.hide);
  slider.addEventListener("focus", () => {
    // A pointer's press focuses too; it has chosen its own point.
    if (slider.matches(":focus-visible")) inspect.show(inspect.rank());
  });
  slider.addEventListener("blur", inspect.hide);
  slider.addEventListener("keydown", (event) => {
    if (event.key === "Escape") inspect.hide();
    const rank = rankAfterKey(event.key, inspect.rank(), count);
    if (rank === null) return;
    event.preventDefault();
    inspect.show(rank);
  });
}

/**
 * @param {string} key
 * @param {number} rank
 * @param {number} count
 */
function rankAfterKey(key, rank, count) {
  /** @type {Record<string, number>} */
  const moves = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: PAGE_STEP, PageDown: -PAGE_STEP };
  if (key === "Home") return 1;
  if (key === "End") return count;
  return key in moves ? Math.min(count, Math.max(1, rank + moves[key])) : null;
}
