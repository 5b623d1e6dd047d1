/**
 * What went wrong, in words, with what to do about it. Knows every kind of problem's words, not what caused it.
 */

import { Cancelled, ServiceProblem } from "./api.js";
import { byId, element } from "./dom.js";
import { t } from "./i18n.js";

/**
 * @param {() => void} onRetry
 */
export function setUpProblem(onRetry) {
  const box = byId("problem");
  const text = byId("problem-text");
  const retry = element("button", { type: "button", class: "small", id: "retry", click: onRetry });
  const dismiss = element("button", { type: "button", class: "small", click: () => close() });
  byId("problem-actions").append(retry, dismiss);
  /** @type {ServiceProblem | null} */
  let current = null;
  let readyAtMs = 0;
  let timer = 0;

  const close = () => {
    current = null;
    clearInterval(timer);
    box.hidden = true;
    text.replaceChildren();
  };
  // The button stands outside of the alert: a screen reader must not read out every second that passes.
  const countDown = () => {
    const left = Math.ceil((readyAtMs - Date.now()) / 1000);
    retry.disabled = left > 0;
    retry.textContent = left > 0 ? t("retryIn", { n: left }) : t("retry");
    if (left <= 0) clearInterval(timer);
  };
  const refresh = () => {
    if (!current) return;
    dismiss.textContent = t("dismiss");
    text.replaceChildren(...sentences(current));
    box.hidden = false;
    clearInterval(timer);
    timer = setInterval(countDown, 250);
    countDown();
  };
  return {
    close,
    current: () => current,
    refresh,
    /** @param {ServiceProblem} problem */
    show(problem) {
      current = problem;
      readyAtMs = Date.now() + (problem.retryAfterS ?? 0) * 1000;
      refresh();
    },
  };
}

/**
 * A problem as one sentence; none if somebody cancelled.
 * @param {unknown} error
 */
export function sentenceOf(error) {
  if (error instanceof Cancelled) return "";
  if (!(error instanceof ServiceProblem)) throw error;
  const { kind, detail } = error;
  return [t(`${kind}Title`), ...(detail ? [t("serviceSays", { text: detail })] : [])].join(t("separator"));
}

/** @param {ServiceProblem} problem */
function sentences({ kind, status, retryAfterS, detail, requestId }) {
  return [
    element("p", { class: "problem-title" }, t(`${kind}Title`)),
    element("p", {}, t(`${kind}Text`, { n: retryAfterS ?? 1, status })),
    ...(detail ? [element("p", { class: "problem-detail", dir: "auto" }, t("serviceSays", { text: detail }))] : []),
    ...(requestId ? [element("p", { class: "muted" }, t("requestId", { id: requestId }))] : []),
  ];
}
