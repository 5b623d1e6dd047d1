/**
 * The engine's state, asked for again and again: often while it is not ready, rarely once it is, never in a hidden tab.
 */

import { fetchInfo, fetchReadiness, ServiceProblem } from "./api.js";
import { byId } from "./dom.js";
import { t } from "./i18n.js";
import { loadDemoClosed, saveDemoClosed } from "./state.js";

const PAUSE_MS = { ready: 20_000, loading: 2_000, offline: 4_000 };

/** @typedef {"checking" | "ready" | "loading" | "offline"} Readiness */
/**
 * @typedef {object} State
 * @property {Readiness} readiness
 * @property {Record<string, any>} said what `ready` answered; it needs no key
 * @property {Record<string, any> | null} info what `info` answered
 * @property {boolean} needsKey
 * @property {boolean} demoClosed
 */

/**
 * @param {{key: () => string, onKeyNeeded: () => void, onInfo: (info: Record<string, any>) => void}} options
 */
export function watchStatus({ key, onKeyNeeded, onInfo }) {
  /** @type {State} */
  let state = { readiness: "checking", said: {}, info: null, needsKey: false, demoClosed: loadDemoClosed() };
  let timer = 0;
  let turn = 0;

  const check = async () => {
    clearTimeout(timer);
    turn += 1;
    const mine = turn;
    const { readiness, said } = await fetchReadiness();
    const details = readiness === "ready" ? await readInfo(key(), state) : { info: null, needsKey: false };
    // A later check, after a new key or on return to the tab, has overtaken this one.
    if (mine !== turn) return;
    if (details.needsKey && !state.needsKey) onKeyNeeded();
    state = { ...state, readiness, said, ...details };
    show(state);
    if (state.info) onInfo(state.info);
    if (!document.hidden) timer = setTimeout(check, PAUSE_MS[readiness]);
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : check()));
  byId("demo-close").addEventListener("click", () => {
    state.demoClosed = true;
    saveDemoClosed();
    show(state);
    byId("query").focus();
  });
  show(state);
  check();
  return { check, refresh: () => show(state), limits: () => state.info?.limits ?? {} };
}

/**
 * What is loaded does not change while the engine stays ready, so it is asked for once.
 * @param {string} key
 * @param {State} before
 */
async function readInfo(key, before) {
  if (before.readiness === "ready" && before.info) return { info: before.info, needsKey: false };
  try {
    return { info: await fetchInfo(key), needsKey: false };
  } catch (error) {
    const needsKey = error instanceof ServiceProblem && error.kind === "unauthorized";
    return { info: null, needsKey };
  }
}

/** @param {State} state */
function show(state) {
  const { readiness, said, info, demoClosed } = state;
  byId("status").dataset.state = readiness;
  const name = { checking: "statusChecking", ready: "statusReady", loading: "statusLoading", offline: "statusOffline" };
  const parts = readiness === "ready" ? [info?.model_id ?? said.model, info?.device] : [];
  setText("status-line", [t(name[readiness]), ...parts.filter(isText)].join(" · "));
  setText("status-hint", hint(state));
  byId("demo").hidden = demoClosed || !(readiness === "ready" && (info?.is_demo ?? said.demo) === true);
}

/** @param {State} state */
function hint({ readiness, said, info, needsKey }) {
  if (readiness === "offline") return t("statusOfflineHint");
  if (readiness === "loading") {
    return isText(said.message) ? t("serviceSays", { text: said.message.slice(0, 200) }) : t("statusLoadingHint");
  }
  if (needsKey) return t("statusNeedsKey");
  return [info?.dtype, info?.quantization, info?.version && `v${info.version}`].filter(isText).join(" · ");
}

/**
 * A live region is read out whenever it is written, so it is written only when it says something else.
 * @param {string} id
 * @param {string} text
 */
function setText(id, text) {
  const node = byId(id);
  if (node.textContent !== text) node.textContent = text;
}

/** @param {unknown} value */
function isText(value) {
  return typeof value === "string" && value !== "" && value !== "none";
}
