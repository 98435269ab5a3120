// Keys on every page: / to search, n for something new, ? for help. They can be turned off, for who speaks to a computer.
"use strict";

(() => {
  const dialog = document.querySelector("#keys");
  const isOn = dialog.querySelector("[data-keys-on]");
  const opener = document.querySelector("[data-keys]");
  const isTyping = (target) => target.closest("textarea, select, [contenteditable], input:not([type=checkbox], [type=radio], [type=file])");
  const search = () => document.querySelector("#search");

  const ACTS = {
    "/": () => (search() ? search().select() : location.assign(dialog.dataset.search)),
    n: () => location.assign(dialog.dataset.submit),
    "?": () => dialog.showModal(),
  };

  document.addEventListener("keydown", (event) => {
    const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat;
    if (!isPlain || !isOn.checked || dialog.open || isTyping(event.target) || !Object.hasOwn(ACTS, event.key)) return;
    event.preventDefault();
    ACTS[event.key]();
  });

  isOn.checked = localStorage.getItem("keys") !== "off";
  isOn.addEventListener("change", () => localStorage.setItem("keys", isOn.checked ? "on" : "off"));
  if (opener) {
    opener.hidden = false;
    opener.addEventListener("click", () => dialog.showModal());
  }
  if (location.hash === "#search") search()?.focus();
})();
