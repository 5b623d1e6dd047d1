/**
 * One run at a time: from the fields to the service to the results, with progress, cancelling and problems in words.
 */

import { Cancelled, scoreAll, ServiceProblem } from "./api.js";
import { byId } from "./dom.js";
import { t } from "./i18n.js";
import { ranked } from "./ranking.js";
import { documentsOf } from "./text.js";

const CLOCK_MS = 100;

/** @typedef {{query: string, instruction: string, second: string | null, documents: string[]}} Task `second`: an instruction to rank by as well */

/**
 * @param {object} options
 * @param {() => import("./state.js").Input} options.read
 * @param {() => string} options.key
 * @param {() => import("./api.js").Limits} options.limits
 * @param {(outcome: import("./results.js").Outcome) => void} options.onOutcome
 * @param {(problem: ServiceProblem) => void} options.onProblem
 * @param {() => void} options.onStart
 */
export function setUpRun({ read, key, limits, onOutcome, onProblem, onStart }) {
  /** @type {AbortController | null} */
  let running = null;
  /** @type {Task | null} what the shown results are for */
  let answered = null;

  const run = async () => {
    if (running) return;
    const task = taskOf(read());
    const missing = missingField(task);
    if (missing) return ask(missing);
    running = new AbortController();
    const startedMs = performance.now();
    const { instruction, second, documents } = task;
    const instructions = [instruction, ...(second === null ? [] : [second])];
    const clock = showProgress(documents.length * instructions.length, startedMs);
    onStart();
    try {
      const options = { key: key(), limits: limits(), signal: running.signal };
      const rankings = [];
      let numTokens = 0;
      let model = "";
      let calibrated = /** @type {boolean | null} */ (null);
      for (const one of instructions) {
        const numBefore = rankings.length * documents.length;
        const onProgress = (/** @type {number} */ numDone) => clock.done(numBefore + numDone);
        const answer = await scoreAll({ ...task, instruction: one }, { ...options, onProgress });
        rankings.push(ranked(answer.scored, documents));
        numTokens += answer.numTokens;
        ({ model } = answer);
        calibrated = calibrated === false ? false : answer.calibrated;
      }
      const seconds = elapsed(startedMs);
      answered = task;
      const [rows, second = null] = rankings;
      onOutcome({ query: task.query, rows, second, instructions, seconds, model, numTokens, calibrated });
      say(t("finished", { n: documents.length, seconds: seconds.toFixed(2) }));
    } catch (error) {
      tellFailure(error, startedMs);
    } finally {
      clock.stop();
      running = null;
    }
  };
  const tellFailure = (/** @type {unknown} */ error, /** @type {number} */ startedMs) => {
    if (error instanceof Cancelled) return say(t("cancelled", { seconds: elapsed(startedMs).toFixed(1) }));
    if (!(error instanceof ServiceProblem)) throw error;
    say("");
    return onProblem(error);
  };
  const cancel = () => running?.abort();

  byId("run").addEventListener("click", run);
  byId("cancel").addEventListener("click", cancel);
  document.addEventListener("keydown", (event) => {
    // The batch tab has another form in this one's place.
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing && byId("run").checkVisibility()) {
      event.preventDefault();
      run();
    }
    if (event.key === "Escape" && running && !event.isComposing) cancel();
  });
  return { run, isStale: () => answered !== null && JSON.stringify(taskOf(read())) !== JSON.stringify(answered) };
}

/**
 * @param {import("./state.js").Input} input
 * @returns {Task}
 */
export function taskOf({ query, instruction, second, documents }) {
  return {
    query: query.trim(),
    instruction: instruction.trim(),
    second: second === null ? null : second.trim(),
    documents: documentsOf(documents).documents,
  };
}

/**
 * The field that has to be filled in before a run, with the message that asks for it.
 * @param {Task} task
 */
export function missingField(task) {
  if (task.query === "") return { id: "query", message: "missingQuery" };
  if (task.documents.length === 0) return { id: "documents", message: "missingDocuments" };
  return task.second === task.instruction ? { id: "second", message: "missingSecond" } : null;
}

/** @param {{id: string, message: string}} missing */
function ask({ id, message }) {
  say(t(message));
  byId("instruction-box").open ||= id === "second";
  byId(id).focus();
}

/** @param {string} sentence */
function say(sentence) {
  byId("run-note").textContent = sentence;
}

/** @param {number} startedMs */
function elapsed(startedMs) {
  return (performance.now() - startedMs) / 1000;
}

/**
 * @param {number} numPairs
 * @param {number} startedMs
 */
function showProgress(numPairs, startedMs) {
  let numDone = 0;
  const [bar, button] = [byId("progress"), byId("run")];
  const tick = () => {
    byId("progress-text").textContent = t("progress", { done: numDone, n: numPairs, seconds: elapsed(startedMs).toFixed(1) });
  };
  const setRunning = (/** @type {boolean} */ isRunning) => {
    byId("progress-box").hidden = !isRunning;
    byId("cancel").hidden = !isRunning;
    // Not `disabled`: the button would lose the focus that started the run.
    button.setAttribute("aria-disabled", String(isRunning));
    byId("results").setAttribute("aria-busy", String(isRunning));
  };
  // Without a value the bar shows that something goes on, not how much.
  bar.removeAttribute("value");
  bar.max = numPairs;
  setRunning(true);
  say(t("started", { n: numPairs }));
  tick();
  const timer = setInterval(tick, CLOCK_MS);
  return {
    done(/** @type {number} */ count) {
      numDone = count;
      bar.value = count;
      tick();
    },
    stop() {
      clearInterval(timer);
      if (document.activeElement === byId("cancel")) button.focus();
      setRunning(false);
    },
  };
}
