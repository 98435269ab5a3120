// Live parts of the admin pages: held still on request, and swapped so that nothing jumps.
"use strict";

const KEY = "intray.held";

function isHeld() {
  return localStorage.getItem(KEY) === "yes";
}

function showHeld() {
  document.documentElement.classList.toggle("held", isHeld());
  for (const button of document.querySelectorAll("#hold")) {
    button.hidden = !document.querySelector("[data-live]");
    button.setAttribute("aria-pressed", String(isHeld()));
  }
}

addEventListener("storage", showHeld);
document.addEventListener("click", (event) => {
  if (!event.target.closest("#hold")) return;
  localStorage.setItem(KEY, isHeld() ? "no" : "yes");
  showHeld();
});

// A page that is held still, or that nobody looks at, asks for nothing.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.target.matches("[data-live]") && (isHeld() || document.hidden)) event.preventDefault();
});

// What a reader has unfolded stays so, and times are in their zone before they are painted.
let unfolded = [];
document.addEventListener("htmx:beforeSwap", (event) => {
  unfolded = [...event.target.querySelectorAll("details[open][id]")].map((one) => one.id);
});
document.addEventListener("htmx:afterSwap", () => {
  for (const id of unfolded) {
    const details = document.getElementById(id);
    if (details) details.open = true;
  }
  localiseTimes(document);
});

showHeld();

// On a narrow screen the row of pages is moved, and it alone, so that one sees where one is.
const here = document.querySelector(".subtabs [aria-current]");
if (here) {
  const [own, row] = [here, here.parentElement].map((one) => one.getBoundingClientRect());
  here.parentElement.scrollLeft += own.left + own.width / 2 - row.left - row.width / 2;
}

// A free time is in the zone of whoever gives it.
for (const form of document.querySelectorAll("form[data-zoned]")) {
  const input = form.querySelector("[type=datetime-local]");
  form.querySelector("#until-help").textContent = "In your local time zone.";
  form.addEventListener("submit", () => {
    form.querySelector("[name=zone]").value = input.value ? new Date(input.value).getTimezoneOffset() : "";
  });
}
