/**
 * A ranking in numbers: order, movement, lead and where scores fall off. Pure; knows no texts' meaning and no elements.
 */

/**
 * @typedef {object} Scored one document's score, as the service gave it
 * @property {number} index position in the documents, from 0
 * @property {number} score relevance_score, in [0, 1]
 * @property {number | null} logOdds
 * @property {boolean} truncated
 * @property {boolean} queryTruncated
 * @property {[number, number] | null} span best passage, in code points
 */

/**
 * @typedef {Scored & {rank: number, moved: number, tied: boolean, text: string}} Row `moved`: places gained against the
 *   input; `tied`: practically equal to the row before
 */

/** Log-odds at a smaller distance are practically equal: 16-bit formats are only checked to this (docs/invariance.md). */
const TIED_LOG_ODDS = 0.1;
/** Probabilities as near to 0 or 1 as this look alike in a bar and on a curve. */
const SATURATED = 0.0005;

/** A difference that counts as falling off, for each scale. */
const NOTABLE = { probability: 0.05, logOdds: 0.5 };
const NOTABLE_SHARE = 0.1;
const NOTABLE_RATIO = 2;

/**
 * Best first. Log-odds decide where every document has them, for probabilities saturate; ties keep the input's order.
 * @param {Scored[]} scored
 * @param {string[]} documents
 * @returns {Row[]}
 */
export function ranked(scored, documents) {
  const value = hasLogOdds(scored) ? logOddsOf : scoreOf;
  const tied = value === logOddsOf ? TIED_LOG_ODDS : Number.MIN_VALUE;
  const sorted = [...scored].sort((a, b) => value(b) - value(a) || a.index - b.index);
  return sorted.map((one, at) => ({
    ...one,
    rank: at + 1,
    moved: one.index - at,
    tied: at > 0 && value(sorted[at - 1]) - value(one) < tied,
    text: documents[one.index],
  }));
}

/** @param {Scored[]} scored */
export function hasLogOdds(scored) {
  return scored.every((one) => one.logOdds !== null);
}

/**
 * The scale on which rows can be distinguished: probabilities; or log-odds, if the probabilities of the best rows, or of
 * all rows, are too close to 1 or 0.
 * @param {Row[]} rows best first
 * @returns {"probability" | "logOdds"}
 */
export function clearestScale(rows) {
  const alike = rows[0].score < SATURATED ? rows : rows.filter((row) => row.score > 1 - SATURATED);
  return hasLogOdds(rows) && alike.some((row) => row.rank > 1 && !row.tied) ? "logOdds" : "probability";
}

/** @param {Scored} one */
export const scoreOf = (one) => one.score;

/** @param {Scored} one */
export const logOddsOf = (one) => one.logOdds ?? 0;

/**
 * The ends of a scale for some values.
 * @param {number[]} values best first
 * @param {"probability" | "logOdds"} scale
 * @returns {[number, number]}
 */
export function rangeOf(values, scale) {
  if (scale === "probability") return [0, 1];
  const [low, high] = [values[values.length - 1], values[0]];
  const padding = (high - low) * 0.06 || 1;
  return [low - padding, high + padding];
}

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
 * Rows in the order that a table's head asks for; equal ones by rank.
 * @param {Row[]} rows
 * @param {"rank" | "score" | "index" | "text"} key
 * @param {boolean} descending
 * @param {string} language for comparing texts
 */
export function sortedRows(rows, key, descending, language) {
  const collator = new Intl.Collator(language, { numeric: true });
  const compare = {
    rank: (/** @type {Row} */ a, /** @type {Row} */ b) => a.rank - b.rank,
    // Ranks follow the scores more exactly than the scores' own digits do.
    score: (/** @type {Row} */ a, /** @type {Row} */ b) => a.score - b.score || b.rank - a.rank,
    index: (/** @type {Row} */ a, /** @type {Row} */ b) => a.index - b.index,
    text: (/** @type {Row} */ a, /** @type {Row} */ b) => collator.compare(a.text, b.text),
  }[key];
  const sign = descending ? -1 : 1;
  return [...rows].sort((a, b) => sign * compare(a, b) || a.rank - b.rank);
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
