/** Delimiters of cells, with the keys of their names. */

/** @type {[string, string][]} */
export const DELIMITERS = [
  [",", "delimiterComma"],
  ["\t", "delimiterTab"],
  [";", "delimiterSemicolon"],
  ["|", "delimiterBar"],
];
