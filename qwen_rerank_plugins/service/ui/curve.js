/**
 * The drawing of a ranking: scores by rank as a curve, and a strip of heat in input order. Draws what it is given; the
 * words beside it, the pointer and the keyboard are in chart.js.
 */

import { svgElement } from "./dom.js";
import { difference, number, t } from "./i18n.js";
import { rangeOf } from "./ranking.js";
import { ticks } from "./shape.js";

export const HEIGHT = 300;
const MARGIN = { top: 24, right: 20, bottom: 40, left: 52 };
const MOST_POINTS = 300;
const MOST_CELLS = 240;
const STRIP_HEIGHT = 26;

/**
 * @typedef {object} Frame where values stand in the drawing
 * @property {number} width
 * @property {(rank: number) => number} x
 * @property {(value: number) => number} y
 * @property {(x: number) => number} rankAt the rank nearest to a place
 * @property {number} low
 * @property {number} high
 */

/**
 * @param {number[]} values best first
 * @param {number} width pixels
 * @param {"probability" | "logOdds"} scale
 * @returns {Frame}
 */
export function frameOf(values, width, scale) {
  const count = values.length;
  const [low, high] = rangeOf(values, scale);
  const across = Math.max(1, width - MARGIN.left - MARGIN.right);
  const down = HEIGHT - MARGIN.top - MARGIN.bottom;
  const step = count > 1 ? across / (count - 1) : 0;
  const offset = count > 1 ? 0 : across / 2;
  return {
    width,
    low,
    high,
    x: (rank) => MARGIN.left + offset + (rank - 1) * step,
    y: (value) => MARGIN.top + ((high - value) / (high - low)) * down,
    rankAt: (x) => (step ? Math.min(count, Math.max(1, Math.round((x - MARGIN.left) / step) + 1)) : 1),
  };
}

/**
 * @param {object} options
 * @param {number[]} options.values best first
 * @param {Frame} options.frame
 * @param {import("./shape.js").Shape} options.shape
 * @param {string} options.title
 * @param {string} options.description
 */
export function drawCurve({ values, frame, shape, title, description }) {
  const drawing = svgElement(
    "svg",
    { role: "img", width: frame.width, height: HEIGHT, "aria-labelledby": "curve-title curve-description" },
    svgElement("title", { id: "curve-title" }, title),
    svgElement("desc", { id: "curve-description" }, description),
  );
  drawing.append(...axes(values.length, frame), ...line(values, frame));
  if (shape.drop?.notable) drawing.append(dropMark(shape.drop, frame));
  if (values.length <= MOST_POINTS) drawing.append(...points(values, frame));
  drawing.append(svgElement("circle", { class: "cursor", r: 6, cx: -20, cy: -20 }));
  return drawing;
}

/**
 * @param {number} count
 * @param {Frame} frame
 */
function axes(count, frame) {
  const right = frame.width - MARGIN.right;
  const bottom = HEIGHT - MARGIN.bottom;
  const rows = ticks(frame.low, frame.high).flatMap((value) => [
    svgElement("line", { class: "grid", x1: MARGIN.left, x2: right, y1: frame.y(value), y2: frame.y(value) }),
    svgElement("text", { class: "tick", x: MARGIN.left - 8, y: frame.y(value) + 4, "text-anchor": "end" }, String(value)),
  ]);
  const ranks = ticks(1, count, Math.min(8, Math.max(1, count - 1))).filter((rank) => Number.isInteger(rank) && rank >= 1);
  const marks = [...new Set([1, ...ranks.filter((rank) => rank > 1 + count / 20)])];
  const columns = marks.map((rank) =>
    svgElement("text", { class: "tick", x: frame.x(rank), y: bottom + 18, "text-anchor": "middle" }, number(rank)),
  );
  const label = svgElement("text", { class: "tick", x: right, y: HEIGHT - 4, "text-anchor": "end" }, t("chartRank"));
  return [...rows, ...columns, label];
}

/**
 * @param {number[]} values
 * @param {Frame} frame
 */
function line(values, frame) {
  const path = values.map((value, at) => `${round(frame.x(at + 1))},${round(frame.y(value))}`).join("L");
  const bottom = HEIGHT - MARGIN.bottom;
  const area = `M${round(frame.x(1))},${bottom}L${path}L${round(frame.x(values.length))},${bottom}Z`;
  return [svgElement("path", { class: "area", d: area }), svgElement("path", { class: "line", d: `M${path}` })];
}

/**
 * @param {number[]} values
 * @param {Frame} frame
 */
function points(values, frame) {
  const radius = values.length > 80 ? 2 : 4;
  return values.map((value, at) =>
    svgElement("circle", { class: at ? "point" : "point best", r: radius, cx: round(frame.x(at + 1)), cy: round(frame.y(value)) }),
  );
}

/**
 * A dashed line between the two ranks, with the size of the step.
 * @param {{afterRank: number, size: number}} drop
 * @param {Frame} frame
 */
function dropMark({ afterRank, size }, frame) {
  const x = (frame.x(afterRank) + frame.x(afterRank + 1)) / 2;
  const isRight = x > frame.width - 130;
  return svgElement(
    "g",
    { class: "drop" },
    svgElement("line", { x1: x, x2: x, y1: MARGIN.top - 10, y2: HEIGHT - MARGIN.bottom }),
    svgElement(
      "text",
      { x: x + (isRight ? -6 : 6), y: MARGIN.top - 6, "text-anchor": isRight ? "end" : "start" },
      `${t("dropMark")} −${difference(size)}`,
    ),
  );
}

/**
 * Documents in input order, side by side; where there are too many, the best of neighbours.
 * @param {{index: number, rank: number}[]} rows
 * @param {number[]} values of the rows
 * @param {number} width pixels
 * @returns {{drawing: SVGElement, rankAt: (x: number) => number}}
 */
export function drawStrip(rows, values, width) {
  const numCells = Math.min(MOST_CELLS, rows.length);
  /** @type {number[]} the row that each cell shows; rows come best first, so the first one wins */
  const shown = new Array(numCells).fill(-1);
  rows.forEach(({ index }, at) => {
    const cell = Math.floor((index * numCells) / rows.length);
    if (shown[cell] < 0) shown[cell] = at;
  });
  const [low, high] = [Math.min(0, values[values.length - 1]), Math.max(1, values[0])];
  const cellWidth = width / numCells;
  const cells = shown.map((at, cell) =>
    svgElement("rect", {
      class: "heat",
      x: round(cell * cellWidth),
      width: round(cellWidth + 0.3),
      height: STRIP_HEIGHT,
      "fill-opacity": round(0.06 + 0.94 * ((values[at] - low) / (high - low))),
    }),
  );
  const title = svgElement("title", { id: "strip-title" }, t("stripTitle"));
  const drawing = svgElement("svg", { role: "img", width, height: STRIP_HEIGHT, "aria-labelledby": "strip-title" }, title, ...cells);
  const cellAt = (/** @type {number} */ x) => Math.min(numCells - 1, Math.max(0, Math.floor(x / cellWidth)));
  return { drawing, rankAt: (x) => rows[shown[cellAt(x)]].rank };
}

/** @param {number} value */
function round(value) {
  return Math.round(value * 100) / 100;
}
