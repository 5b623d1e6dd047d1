/**
 * What a curve of scores looks like in numbers: lead, where scores fall off, tick marks. Pure; knows no elements.
 */

/** A difference that counts as falling off, for each scale. */
const NOTABLE = { probability: 0.05, logOdds: 0.5 };
const NOTABLE_SHARE = 0.1;
const NOTABLE_RATIO = 2;

/**
 * @typedef {object} Shape
 * @property {number | null} lead how far the first stands ahead of the second; null for a single document
 * @property {{afterRank: number, from: number, to: number, size: number, notable: boolean} | null} drop the largest
 *   step between neighbours; `notable` when it stands out from the others and from the whole range
 */

/**
 * What a falling list of scores looks like.
 * @param {number[]} values best first
 * @param {"probability" | "logOdds"} scale
 * @returns {Shape}
 */
export function shapeOf(values, scale = "probability") {
  if (values.length < 2) return { lead: null, drop: null };
  const steps = values.slice(1).map((value, at) => values[at] - value);
  let largest = 0;
  for (let at = 1; at < steps.length; at += 1) if (steps[at] > steps[largest]) largest = at;
  const size = steps[largest];
  const range = values[0] - values[values.length - 1];
  const others = steps.length > 1 ? (range - size) / (steps.length - 1) : 0;
  const notable = size >= NOTABLE[scale] && size >= NOTABLE_SHARE * range && size >= NOTABLE_RATIO * others;
  const drop = { afterRank: largest + 1, from: values[largest], to: values[largest + 1], size, notable };
  return { lead: steps[0], drop };
}

/**
 * Tick marks that cover a range at round steps.
 * @param {number} low
 * @param {number} high
 * @param {number} count about how many
 */
export function ticks(low, high, count = 5) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough) ?? power;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, at) => Number(((first + at) * step).toPrecision(12)));
}
