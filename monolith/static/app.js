// The little that needs a script: times in the reader's zone, files dropped anywhere, and word of what goes wrong.
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

// ---- files

function fileInput() {
  return document.querySelector("#files input[type=file]");
}

function setFiles(input, files) {
  const carrier = new DataTransfer();
  files.forEach((file) => carrier.items.add(file));
  input.files = carrier.files;
  listFiles(input);
}

function listFiles(input) {
  const list = document.querySelector("#files .files");
  const row = document.querySelector("#file-row");
  const files = [...input.files];
  list.replaceChildren(...files.map((file, place) => {
    const item = row.content.firstElementChild.cloneNode(true);
    const isTooLarge = file.size > Number(input.dataset.limit);
    item.classList.toggle("too-large", isTooLarge);
    item.querySelector(".file-name").textContent = file.name;
    item.querySelector(".file-size").textContent = readableSize(file.size) + (isTooLarge ? ", too large" : "");
    item.querySelector("button").setAttribute("aria-label", `Remove ${file.name}`);
    item.querySelector("button").addEventListener("click", () => {
      setFiles(input, files.filter((_, other) => other !== place));
      input.focus();
    });
    return item;
  }));
}

function readableSize(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1024 * 1024 ? `${Math.round(bytes / 1024)} kB` : `${(bytes / 1024 / 1024).toFixed(1)} MB`;
}

// Choosing again adds to what is chosen already, as dropping does; the browser itself would replace it.
let chosen = [];

function addFiles(input, more) {
  const known = new Set(chosen.map((file) => file.name + file.size + file.lastModified));
  setFiles(input, [...chosen, ...[...more].filter((file) => !known.has(file.name + file.size + file.lastModified))]);
}

function watchFiles() {
  const input = fileInput();
  if (!input) return;
  input.classList.add("neat");
  input.addEventListener("click", () => { chosen = [...input.files]; });
  input.addEventListener("change", () => addFiles(input, input.files));
  let depth = 0;
  const isOfFiles = (event) => event.dataTransfer && event.dataTransfer.types.includes("Files");
  const show = (change) => {
    depth = Math.max(0, depth + change);
    document.documentElement.classList.toggle("dropping", depth > 0);
  };
  addEventListener("dragenter", (event) => { if (isOfFiles(event)) show(1); });
  addEventListener("dragleave", (event) => { if (isOfFiles(event)) show(-1); });
  addEventListener("dragover", (event) => { if (isOfFiles(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    if (!isOfFiles(event)) return;
    event.preventDefault();
    show(-depth);
    chosen = [...input.files];
    addFiles(input, event.dataTransfer.files);
    document.querySelector("#files").scrollIntoView({ block: "nearest" });
  });
}

// ---- what goes wrong, and what goes on

function say(text) {
  const place = document.querySelector("#said");
  place.hidden = !text;
  place.querySelector("p").textContent = text || "";
}

document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr } = event.detail;
  if (new URL(xhr.responseURL).pathname === "/sign-in") {
    event.detail.shouldSwap = false;
    location.assign(xhr.responseURL.includes("%2Flive") ? location.href : xhr.responseURL);
  }
});
document.addEventListener("htmx:sendError", () => say("The server cannot be reached just now. This page goes on when it is back."));
document.addEventListener("htmx:responseError", (event) => {
  const page = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
  const detail = page.querySelector("[data-problem]");
  say(detail ? detail.textContent.trim() : "The server could not answer. Load the page again.");
});
document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful) say(""); });
document.addEventListener("htmx:afterSwap", () => {
  const wrong = document.querySelector("#submit-form [aria-invalid=true], #submit-form .error-line");
  if (wrong) wrong.scrollIntoView({ block: "center" });
});
document.addEventListener("htmx:load", (event) => localiseTimes(event.detail.elt));

document.addEventListener("htmx:xhr:progress", (event) => {
  const bar = document.querySelector("#sending progress");
  if (bar && event.detail.lengthComputable && event.detail.total > 0) bar.value = event.detail.loaded / event.detail.total;
});
document.addEventListener("htmx:beforeRequest", (event) => toggleSending(event, true));
document.addEventListener("htmx:afterRequest", (event) => toggleSending(event, false));

function toggleSending(event, isShown) {
  const sending = document.querySelector("#sending");
  if (sending && event.target.id === "submit-form") sending.hidden = !isShown;
}

// A link to a part that is folded up unfolds it.
function unfold() {
  const part = document.getElementById(location.hash.slice(1));
  if (part && part.tagName === "DETAILS") part.open = true;
}

addEventListener("hashchange", unfold);
unfold();
localiseTimes(document);
watchFiles();
