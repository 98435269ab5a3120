// The little that needs a script: times in the reader's zone, and word of what goes wrong.
"use strict";

const FORMATS = {
  time: { hour: "2-digit", minute: "2-digit", second: "2-digit" },
  clock: { hour: "2-digit", minute: "2-digit" },
  datetime: { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" },
};

function localiseTimes(root) {
  for (const time of root.querySelectorAll("time[data-style]")) {
    const at = new Date(time.dateTime);
    time.title = at.toUTCString();
    time.textContent = new Intl.DateTimeFormat(undefined, FORMATS[time.dataset.style]).format(at);
    delete time.dataset.style;
  }
}

// ---- what goes wrong, and what goes on

function say(text) {
  const place = document.querySelector("#said");
  place.hidden = !text;
  place.querySelector("p").textContent = text || "";
}

document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr } = event.detail;
  if (new URL(xhr.responseURL).pathname === `${document.body.dataset.root}/sign-in`) {
    event.detail.shouldSwap = false;
    location.assign(xhr.responseURL.includes("%2Flive") ? location.href : xhr.responseURL);
  }
});
document.addEventListener("htmx:sendError", () => say("Can’t reach the server. This page will update when the connection is back."));
document.addEventListener("htmx:responseError", (event) => {
  const page = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
  const detail = page.querySelector("[data-problem]");
  say(detail ? detail.textContent.trim() : "Something went wrong. Reload the page.");
});
document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful) say(""); });
document.addEventListener("htmx:load", (event) => localiseTimes(event.detail.elt));

// One tick for all of a page.
function watchTicks(root) {
  for (const all of root.querySelectorAll("input[data-ticks]")) {
    all.closest("label").hidden = false;
    all.addEventListener("change", () => {
      for (const one of all.form.querySelectorAll(`input[name=${all.dataset.ticks}]`)) one.checked = all.checked;
    });
  }
}

document.addEventListener("htmx:load", (event) => watchTicks(event.detail.elt));

// A link to a part that is folded up unfolds it.
function unfold() {
  const part = document.getElementById(location.hash.slice(1));
  if (part && part.tagName === "DETAILS") part.open = true;
}

addEventListener("hashchange", unfold);
unfold();
localiseTimes(document);
