// Before anything is drawn: the theme and language that were chosen, so that nothing flashes.
"use strict";
(() => {
  let kept = {};
  try {
    kept = { theme: localStorage.getItem("manyheads.theme"), language: localStorage.getItem("manyheads.language") };
  } catch { /* a browser that keeps nothing */ }
  const root = document.documentElement;
  if (kept.theme === "dark" || kept.theme === "light") root.dataset.theme = kept.theme;
  const language = kept.language || (navigator.language || "en").toLowerCase();
  root.lang = language.startsWith("zh") ? "zh-CN" : "en";
})();
