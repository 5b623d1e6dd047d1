/**
 * The page put together: each part is created here and reaches the others through functions, so that no part knows another.
 */

import { fetchInfo, ServiceProblem } from "./api.js";
import { byId, debounced, NARROW } from "./dom.js";
import { setUpFiles } from "./files.js";
import { language, onLanguage, preferredLanguage, setLanguage, t } from "./i18n.js";
import { setUpInputs } from "./inputs.js";
import { setUpProblem } from "./problem.js";
import { setUpResults } from "./results.js";
import { setUpRun } from "./run.js";
import { loadKey, loadPreferences, saveKey, savePreferences } from "./state.js";
import { watchStatus } from "./status.js";

const STALE_PAUSE_MS = 150;

await setLanguage(preferredLanguage(loadPreferences().language));

const checkStale = debounced(() => results.markStale(run.isStale()), STALE_PAUSE_MS);
const inputs = setUpInputs({ onChange: () => checkStale() });
const files = setUpFiles({ onDocuments: inputs.addDocuments, key: loadKey, limits: () => status.limits() });
const results = setUpResults({
  onFind: inputs.find,
  onMissing: () => tellOffline(),
  onBatch: async (panel) => (await import("./batch.js")).showBatch(panel, { key: loadKey, about: () => jobs }),
});
const problem = setUpProblem(() => run.run());
const run = setUpRun({
  read: inputs.read,
  key: loadKey,
  limits: () => status.limits(),
  onStart: problem.close,
  onOutcome: (outcome) => {
    results.show(outcome);
    bringIntoView();
  },
  onProblem: (reason) => {
    if (isAboutKey(reason)) askForKey(true);
    problem.show(reason);
    bringIntoView();
  },
});
/** @type {Record<string, any> | null} what the service says of uploads */
let jobs = null;
const status = watchStatus({
  key: loadKey,
  onKeyNeeded: () => askForKey(false),
  onInfo: (info) => {
    jobs = info.jobs ?? null;
    byId("tab-batch").hidden = jobs === null;
  },
});

setUpKey();
setUpTheme();
byId("copy-as").addEventListener("click", async (/** @type {any} */ { target }) => {
  const { kind } = target.dataset;
  if (!kind) return;
  const options = { input: inputs.read(), minScore: results.minScore(), hasKey: loadKey() !== "", limits: status.limits() };
  await import("./snippets.js").then(({ copyAs }) => copyAs(kind, options), tellOffline);
});
byId("language").addEventListener("click", async () => {
  const wanted = language() === "zh" ? "en" : "zh";
  try {
    await setLanguage(wanted);
    savePreferences({ language: wanted });
  } catch {
    tellOffline();
  }
});
onLanguage(() => {
  for (const part of [inputs, files, results, problem, status]) part.refresh();
  byId("run-note").textContent = "";
  showThemeName();
});
results.refresh();
inputs.refresh();

/** A part of the page itself could not be had. */
function tellOffline() {
  problem.show(new ServiceProblem("offline"));
}

/** In one column the results lie below the fields. */
function bringIntoView() {
  if (!NARROW.matches) return;
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  // In the next frame, when the progress bar above the results is gone.
  const scroll = () => byId("results").scrollIntoView({ behavior: isCalm ? "auto" : "smooth", block: "start" });
  requestAnimationFrame(scroll);
}

function setUpKey() {
  const field = byId("key");
  field.value = loadKey();
  byId("key-form").hidden = field.value === "";
  byId("key-form").addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    const key = field.value.trim();
    saveKey(key);
    status.check();
    /** @type {unknown} */
    const failure = await fetchInfo(key).then(() => null, (error) => error);
    if (key !== field.value.trim()) return;
    if (failure instanceof ServiceProblem && isAboutKey(failure)) problem.show(failure);
    else if (isAboutKey(problem.current())) problem.close();
  });
  byId("key-forget").addEventListener("click", () => {
    field.value = "";
    saveKey("");
    status.check();
  });
}

/** @param {ServiceProblem | null} reason */
function isAboutKey(reason) {
  return reason?.kind === "unauthorized" || reason?.kind === "badKey";
}

/** @param {boolean} focus whether somebody is waiting for it */
function askForKey(focus) {
  byId("key-form").hidden = false;
  if (focus) byId("key").focus();
}

function setUpTheme() {
  showThemeName();
  byId("theme").addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    savePreferences({ theme });
    showThemeName();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showThemeName);
}

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function showThemeName() {
  byId("theme").textContent = t(isDark() ? "themeLight" : "themeDark");
}
