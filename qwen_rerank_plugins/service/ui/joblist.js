/**
 * The list of upload jobs: one entry a job, kept and changed in place, so that nothing loses the focus while it is
 * looked at. Knows no service.
 */

import { element } from "./dom.js";
import { locale, number, t } from "./i18n.js";
import { fileAddress } from "./jobs.js";

/** @typedef {import("./jobs.js").Job} Job */
/**
 * @typedef {object} Actions
 * @property {(job: Job) => void} remove
 * @property {(event: Event, job: Job, part: "result" | "rejected") => void} download may keep the link from being followed
 */

const CONFIRM_MS = 4_000;
const STATES = { queued: "batchQueued", running: "batchRunning", done: "batchDone", failed: "batchFailed" };

/**
 * A job's state in words.
 * @param {Job} job
 */
export function stateName({ state }) {
  return t(STATES[state]);
}

/**
 * @param {HTMLElement} list
 * @param {Actions} actions
 */
export function setUpJobList(list, actions) {
  /** @type {Map<string, {node: HTMLElement, update: (job: Job) => void}>} */
  const entries = new Map();
  return {
    /** @param {Job[]} jobs the newest first */
    show(jobs) {
      const wanted = new Set(jobs.map((job) => job.id));
      for (const [id, { node }] of entries) {
        if (wanted.has(id)) continue;
        node.remove();
        entries.delete(id);
      }
      jobs.forEach((job, place) => {
        const entry = entries.get(job.id) ?? newEntry(job, actions);
        entries.set(job.id, entry);
        entry.update(job);
        if (list.children[place] !== entry.node) list.insertBefore(entry.node, list.children[place] ?? null);
      });
    },
  };
}

/**
 * @param {Job} first
 * @param {Actions} actions
 */
function newEntry(first, actions) {
  let job = first;
  const name = element("strong", { class: "job-name", dir: "auto" });
  const state = element("span", { class: "tag" });
  const bar = element("progress", { max: 1 });
  const facts = element("p", { class: "muted" });
  const guess = element("p", { class: "muted", dir: "auto" });
  const problem = element("p", { class: "job-problem", dir: "auto" });
  const result = link("result", (event) => actions.download(event, job, "result"));
  const rejected = link("rejected", (event) => actions.download(event, job, "rejected"));
  const remove = removeButton(() => actions.remove(job));
  const node = element(
    "li",
    { class: "job" },
    element("div", { class: "row" }, name, state),
    bar,
    facts,
    guess,
    problem,
    element("div", { class: "row" }, result, rejected, remove.button),
  );

  const update = (/** @type {Job} */ latest) => {
    job = latest;
    node.dataset.state = job.state;
    name.textContent = job.name;
    state.textContent = stateName(job);
    showBar(bar, job);
    facts.textContent = factsOf(job).join(" · ");
    guess.textContent = guessOf(job);
    guess.hidden = job.guess === null;
    problem.textContent = job.problem?.message ?? "";
    problem.hidden = job.problem === null;
    showLink(result, job, "result", job.state === "done", t("batchResult"));
    showLink(rejected, job, "rejected", job.rejected_bytes !== null, t("batchRejected"));
    remove.label(t(isOpen(job) ? "batchCancel" : "batchRemove"));
  };
  return { node, update };
}

/** @param {Job} job */
export function isOpen({ state }) {
  return state === "queued" || state === "running";
}

/**
 * @param {string} part
 * @param {(event: Event) => void} click
 */
function link(part, click) {
  return element("a", { class: "download small", download: true, "data-part": part, click });
}

/**
 * @param {HTMLAnchorElement} node
 * @param {Job} job
 * @param {"result" | "rejected"} part
 * @param {boolean} isThere
 * @param {string} text
 */
function showLink(node, job, part, isThere, text) {
  node.hidden = !isThere;
  node.href = fileAddress(job.id, part);
  node.textContent = text;
}

/**
 * Without a value the bar shows that something goes on, not how much.
 * @param {HTMLProgressElement} bar
 * @param {Job} job
 */
function showBar(bar, job) {
  bar.hidden = !isOpen(job);
  bar.setAttribute("aria-label", t("batchProgress", { name: job.name }));
  if (job.state === "running") bar.value = job.progress.fraction;
  else if (job.state === "queued") bar.value = 0;
}

/** @param {Job} job */
function factsOf(job) {
  const { phase, num_rows, num_rejected, pairs_per_s, seconds_left } = job.progress;
  const isRunning = job.state === "running";
  return [
    ...(job.state === "queued" && job.num_ahead ? [t("batchAhead", { n: job.num_ahead })] : []),
    ...(num_rows ? [t("batchRows", { n: num_rows })] : []),
    ...(num_rejected ? [t("batchNumRejected", { n: num_rejected })] : []),
    ...(job.num_warned ? [t("batchNumWarned", { n: job.num_warned })] : []),
    ...(isRunning && phase === "writing" ? [t("batchWriting")] : []),
    ...(isRunning && pairs_per_s ? [t("batchRate", { n: pairs_per_s })] : []),
    ...(isRunning && seconds_left ? [t("batchLeft", { time: duration(seconds_left) })] : []),
    ...(job.expires ? [t("batchExpires", { time: clock(job.expires) })] : []),
  ];
}

/**
 * How the file was decoded, where that is a guess.
 * @param {Job} job
 */
function guessOf({ guess }) {
  if (guess === null) return "";
  const values = guess.options.map((option) => JSON.stringify(guess[option]));
  return t("batchGuess", { values: values.join(t("separator")), texts: guess.texts.join(" · ") });
}

/**
 * A time span in the unit that suits it.
 * @param {number} seconds
 */
export function duration(seconds) {
  if (seconds >= 5400) return t("hours", { n: Math.round(seconds / 3600) });
  if (seconds >= 90) return t("minutes", { n: Math.round(seconds / 60) });
  return t("seconds", { n: Math.max(1, Math.round(seconds)) });
}

/** @param {number} unixSeconds */
function clock(unixSeconds) {
  return new Date(unixSeconds * 1000).toLocaleString(locale(), { dateStyle: "short", timeStyle: "short" });
}

/**
 * Megabytes, for people.
 * @param {number} bytes
 */
export function megabytes(bytes) {
  return number(bytes / 2 ** 20);
}

/**
 * A button whose second press counts: hours of work may be behind it.
 * @param {() => void} onSure
 */
function removeButton(onSure) {
  let text = "";
  let timer = 0;
  const relax = () => {
    clearTimeout(timer);
    timer = 0;
    button.textContent = text;
    button.classList.remove("sure");
  };
  const press = () => {
    if (timer) {
      relax();
      onSure();
      return;
    }
    button.textContent = t("batchConfirm");
    button.classList.add("sure");
    timer = setTimeout(relax, CONFIRM_MS);
  };
  const button = element("button", { type: "button", class: "small", click: press, blur: relax });
  return {
    button,
    /** @param {string} wanted */
    label(wanted) {
      text = wanted;
      if (!timer && button.textContent !== text) button.textContent = text;
    },
  };
}
