/**
 * The tab for whole files: choosing one, sending it, and watching what becomes of it. Loaded when it is first looked at.
 */

import { saveFile } from "./clipboard.js";
import { DELIMITERS } from "./delimiters.js";
import { byId, element, NARROW } from "./dom.js";
import { t } from "./i18n.js";
import { duration, isOpen, megabytes, setUpJobList, stateName } from "./joblist.js";
import { fetchFile, fetchJobs, fileAddress, removeJob, uploadFile, uploadType } from "./jobs.js";
import { sentenceOf } from "./problem.js";

/** @typedef {import("./jobs.js").Job} Job */
/** @typedef {{key: () => string, about: () => Record<string, any> | null}} Options */

const BUSY_PAUSE_MS = 1_000;
const IDLE_PAUSE_MS = 10_000;

/** @type {ReturnType<typeof setUp> | null} */
let tab = null;

/**
 * Show the tab; what is in its fields stays from one time to the next.
 * @param {HTMLElement} panel
 * @param {Options} options
 */
export function showBatch(panel, options) {
  tab ??= setUp(panel, options);
  tab.refresh();
}

/**
 * @param {HTMLElement} panel
 * @param {Options} options
 */
function setUp(panel, { key, about }) {
  const note = element("p", { class: "note", role: "status", id: "batch-note" });
  const list = element("ul", { class: "jobs" });
  const none = element("p", { class: "muted", "data-text": "batchNone" }, t("batchNone"));
  const limits = element("p", { class: "muted" });
  const form = setUpForm({ key, about, say: (sentence) => say(sentence), onJob: () => poll() });
  /** @type {Map<string, Job>} */
  let known = new Map();
  let timer = 0;
  let turn = 0;

  const say = (/** @type {string} */ sentence) => {
    if (note.textContent !== sentence) note.textContent = sentence;
  };
  const jobs = setUpJobList(list, {
    remove: async (job) => {
      await trying(async () => {
        await removeJob(job.id, key());
        say(t("batchGone", { name: job.name }));
        heading.focus();
      });
      poll();
    },
    download: (event, job, part) => {
      if (key() === "") return;
      event.preventDefault();
      trying(async () => {
        const blob = await fetchFile(fileAddress(job.id, part), key());
        const suffix = part === "result" ? `ranked.${job.output_format}` : "rejected.jsonl";
        saveFile(`${job.name.replace(/\.[^.]*$/, "")}.${suffix}`, blob.type, blob);
      });
    },
  });
  const trying = async (/** @type {() => Promise<void>} */ work) => {
    try {
      await work();
    } catch (error) {
      say(sentenceOf(error));
    }
  };
  const show = () => {
    jobs.show([...known.values()]);
    none.hidden = known.size > 0;
  };
  const poll = async () => {
    clearTimeout(timer);
    turn += 1;
    const mine = turn;
    const found = await fetchJobs(key()).catch(() => null);
    if (mine !== turn) return;
    if (found) {
      const news = found.filter((job) => known.has(job.id) && known.get(job.id)?.state !== job.state);
      known = new Map(found.map((job) => [job.id, job]));
      show();
      if (news.length) say(news.map((job) => t("batchNews", { name: job.name, state: stateName(job) })).join(t("separator")));
    }
    if (panel.hidden || document.hidden) return;
    timer = setTimeout(poll, [...known.values()].some(isOpen) ? BUSY_PAUSE_MS : IDLE_PAUSE_MS);
  };
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !panel.hidden) poll();
  });

  const heading = element("h2", { class: "jobs-title", tabindex: "-1", "data-text": "batchJobs" }, t("batchJobs"));
  const hint = element("p", { "data-text": "batchHint" }, t("batchHint"));
  const side = element("div", { class: "batch-side" }, hint, limits, form.node, note);
  // In one column, the tab would otherwise stand below its form.
  const place = () => (NARROW.matches ? panel : byId("batch-side")).prepend(side);
  panel.replaceChildren(heading, none, list);
  NARROW.addEventListener("change", place);
  place();
  return {
    refresh() {
      const { max_upload_bytes = 0, retention_s = 0 } = about() ?? {};
      limits.textContent = t("batchLimits", { n: megabytes(max_upload_bytes), time: duration(retention_s) });
      form.refresh();
      show();
      poll();
    },
  };
}

/**
 * @param {object} options
 * @param {() => string} options.key
 * @param {() => Record<string, any> | null} options.about
 * @param {(sentence: string) => void} options.say
 * @param {() => void} options.onJob a file has become a job
 */
function setUpForm({ key, about, say, onJob }) {
  /** @type {File | null} */
  let file = null;
  /** @type {AbortController | null} */
  let sending = null;
  const parts = formParts();
  const { node, chooser, choose, zone, send, stop, bar, fields } = parts;

  const take = (/** @type {File | undefined} */ chosen) => {
    if (!chosen) return;
    file = null;
    const largest = about()?.max_upload_bytes ?? Infinity;
    if (uploadType(chosen.name) === null) say(t("batchUnknown", { name: chosen.name }));
    else if (chosen.size > largest) say(t("batchTooLarge", { name: chosen.name, n: megabytes(largest) }));
    else {
      file = chosen;
      say("");
    }
    refresh();
  };
  const refresh = () => {
    choose.textContent = file ? `${file.name} · ${megabytes(file.size)} MB` : t("batchDrop");
  };
  const setSending = (/** @type {boolean} */ isSending) => {
    // Not `disabled`: the button would lose the focus.
    send.setAttribute("aria-disabled", String(isSending));
    if (!isSending && document.activeElement === stop) send.focus();
    bar.hidden = stop.hidden = !isSending;
    bar.value = 0;
  };
  const upload = async () => {
    if (sending) return;
    if (!file) {
      say(t("batchMissing"));
      choose.focus();
      return;
    }
    sending = new AbortController();
    const { name, size } = file;
    setSending(true);
    const onProgress = (/** @type {number} */ numBytes) => {
      bar.value = size ? Math.min(1, numBytes / size) : 1;
      parts.message.textContent = t("batchUploading", { done: megabytes(numBytes), n: megabytes(size) });
    };
    try {
      await uploadFile(file, valuesOf(fields), { key: key(), signal: sending.signal, onProgress });
      file = null;
      say(t("batchUploadDone", { name }));
      onJob();
    } catch (error) {
      say(sentenceOf(error));
    } finally {
      sending = null;
      parts.message.textContent = "";
      setSending(false);
      refresh();
    }
  };

  choose.addEventListener("click", () => chooser.click());
  chooser.addEventListener("change", () => {
    take(chooser.files[0]);
    // The same file may be chosen again.
    chooser.value = "";
  });
  zone.addEventListener("dragover", () => zone.classList.add("dropping"));
  zone.addEventListener("dragleave", (/** @type {DragEvent} */ event) => {
    if (!zone.contains(/** @type {Node} */ (event.relatedTarget))) zone.classList.remove("dropping");
  });
  zone.addEventListener("drop", (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    zone.classList.remove("dropping");
    take(event.dataTransfer?.files[0]);
  });
  node.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    upload();
  });
  node.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    upload();
  });
  stop.addEventListener("click", () => sending?.abort());
  return { node, refresh };
}

/** The form's elements; their texts follow the page's language by their marks. */
function formParts() {
  const chooser = element("input", { type: "file", accept: ".csv,.tsv,.json,.jsonl,.ndjson,.parquet", hidden: true, id: "batch-file" });
  const choose = element("button", { type: "button", id: "batch-choose", class: "grow" });
  const zone = element("div", { class: "row batch-zone" }, choose, chooser);
  const fields = {
    query_column: element("input", { type: "text", id: "batch-query", value: "query", spellcheck: "false" }),
    document_column: element("input", { type: "text", id: "batch-document", value: "document", spellcheck: "false" }),
    top_n: element("input", { type: "number", id: "batch-top", min: 1, step: 1 }),
    min_score: element("input", { type: "number", id: "batch-score", min: 0, max: 1, step: "any" }),
    on_bad_row: choice("batch-bad", [["stop", "batchBadRowStop"], ["reject", "batchBadRowReject"]]),
    output_format: choice("batch-format", [["", "batchFormatSame"], ["csv", ""], ["jsonl", ""], ["parquet", ""]]),
    encoding: element("input", { type: "text", id: "batch-encoding", spellcheck: "false" }),
    delimiter: choice("batch-delimiter", [["", "detected"], ...DELIMITERS]),
    instruction: element("textarea", { id: "batch-instruction", rows: 2, dir: "auto" }),
  };
  const send = element("button", { type: "submit", class: "primary", id: "batch-send", "data-text": "batchUpload" }, t("batchUpload"));
  const stop = element("button", { type: "button", id: "batch-stop", "data-text": "cancel", hidden: true }, t("cancel"));
  const bar = element("progress", { max: 1, value: 0, "data-label": "batchUpload", "aria-label": t("batchUpload"), hidden: true });
  const message = element("p", { class: "muted" });
  const labels = {
    query_column: "batchQueryColumn",
    document_column: "batchDocumentColumn",
    top_n: "batchTopN",
    min_score: "batchMinScore",
    on_bad_row: "batchBadRow",
    output_format: "batchFormat",
    encoding: "batchEncoding",
    delimiter: "delimiter",
    instruction: "instruction",
  };
  const labelled = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, withLabel(labels[name], field)]));
  const more = element(
    "details",
    { class: "batch-more" },
    element("summary", { "data-text": "batchMore" }, t("batchMore")),
    element("div", { class: "batch-fields" }, labelled.top_n, labelled.min_score, labelled.on_bad_row, labelled.output_format, labelled.encoding, labelled.delimiter),
    labelled.instruction,
  );
  const node = element(
    "form",
    { class: "batch", novalidate: true, "data-label": "tabBatch", "aria-label": t("tabBatch") },
    zone,
    element("div", { class: "batch-fields" }, labelled.query_column, labelled.document_column),
    more,
    element("div", { class: "row" }, send, stop),
    bar,
    message,
  );
  return { node, chooser, choose, zone, send, stop, bar, message, fields };
}

/**
 * @param {string} id
 * @param {[string, string][]} options values, and the keys of their names; a value is its own name without one
 */
function choice(id, options) {
  const item = (/** @type {[string, string]} */ [value, name]) =>
    element("option", { value, ...(name ? { "data-text": name } : {}) }, name ? t(name) : value.toUpperCase());
  return element("select", { id }, ...options.map(item));
}

/**
 * @param {string} name
 * @param {any} field
 */
function withLabel(name, field) {
  return element("div", {}, element("label", { for: field.id, "data-text": name }, t(name)), field);
}

/** @param {Record<string, any>} fields */
function valuesOf(fields) {
  // A tab is a delimiter.
  const value = (/** @type {any} */ field) => (field.tagName === "SELECT" ? field.value : field.value.trim());
  return Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, value(field)]));
}
