/**
 * A ranking in numbers: order, movement, and the scale that shows it. Pure; knows no texts' meaning and no elements.
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
