// Lists of documents and jobs: what is ticked stays so while rows are refreshed, and the buttons say how many it is for.
"use strict";

(() => {
  const form = () => document.querySelector("#selection");
  const boxes = () => [...document.querySelectorAll("#rows input[name=id]")];
  let ticked = new Set();

  function count() {
    ticked = new Set(boxes().filter((box) => box.checked).map((box) => box.value));
    if (!form()) return;
    const all = form().querySelector("[data-all]");
    const more = form().querySelector("[name=all]");
    all.checked = ticked.size > 0 && ticked.size === boxes().length;
    all.indeterminate = ticked.size > 0 && !all.checked;
    if (more) {
      more.closest("label").hidden = !all.checked;
      if (!all.checked) more.checked = false;
    }
    form().querySelector("[data-count]").textContent = ticked.size ? `${more?.checked ? "More than " : ""}${ticked.size} selected` : "Select all";
    form().querySelectorAll("button").forEach((button) => { button.disabled = !ticked.size; });
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-all]")) boxes().forEach((box) => { box.checked = event.target.checked; });
    if (event.target.closest("#selection, #rows")) count();
  });

  // Another row between the last one that was ticked and this one is ticked as well when Shift is held.
  let last = null;
  document.addEventListener("click", (event) => {
    if (!event.target.matches("#rows input[name=id]")) return;
    const all = boxes(), here = all.indexOf(event.target), there = all.findIndex((box) => box.value === last);
    if (event.shiftKey && there >= 0) all.slice(Math.min(here, there), Math.max(here, there) + 1).forEach((box) => { box.checked = event.target.checked; });
    last = event.target.value;
    count();
  });

  document.addEventListener("htmx:afterSwap", () => {
    boxes().forEach((box) => { box.checked = ticked.has(box.value); });
    count();
  });

  // The address says only what the list is narrowed to.
  document.addEventListener("htmx:configRequest", (event) => {
    if (!event.detail.elt.matches(".filters")) return;
    for (const [name, value] of Object.entries(event.detail.parameters)) if (!value) delete event.detail.parameters[name];
  });

  addEventListener("pageshow", count);
  count();
})();
