// Runs before the first paint, so that a remembered theme or language does not flash in late. It is no module for that
// reason; state.js owns the format of what it reads.
(() => {
  try {
    const saved = JSON.parse(localStorage.getItem("qwen-rerank.preferences") ?? "{}");
    if (saved.theme === "light" || saved.theme === "dark") document.documentElement.dataset.theme = saved.theme;
    const language = saved.language ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
    document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  } catch {
    // Storage is switched off or holds something else: the page starts with its defaults.
  }
})();
