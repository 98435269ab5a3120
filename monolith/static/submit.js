// The page to submit on: files dropped, pasted or chosen, what is wrong with each before it is sent, and how far each is.
// Without this the plain form does the same: the server says what is wrong.
"use strict";

(() => {
  const LOOKED_UP = 20; // files of which the server is asked whether it has them already
  const ADDRESS = /^(?:[a-z][a-z0-9+.-]*:\/\/|www\.)\S+$/i;
  const area = document.querySelector("#files"); // stays the same element when the form is shown again
  const input = area.querySelector("input[type=file]");
  const list = area.querySelector(".files");
  const row = document.querySelector("#file-row");
  let chosen = []; // {file, item, refusal}

  // ---- choosing

  function add(files) {
    const known = new Set(chosen.map(({ file }) => nameOf(file)));
    for (const file of files) if (!known.has(nameOf(file))) chosen.push({ file, item: show(file) });
    judge();
  }

  const nameOf = (file) => [file.name, file.size, file.lastModified].join("/");

  function show(file) {
    const item = row.content.firstElementChild.cloneNode(true);
    item.querySelector(".file-name").textContent = file.name;
    item.querySelector(".file-size").textContent = readable(file.size);
    item.querySelector("progress").setAttribute("aria-label", `Uploading ${file.name}`);
    const button = item.querySelector("button");
    button.setAttribute("aria-label", `Remove ${file.name}`);
    button.addEventListener("click", () => {
      chosen = chosen.filter((one) => one.item !== item);
      item.remove();
      judge();
      input.focus();
    });
    list.append(item);
    lookUp(file, item);
    return item;
  }

  function readable(bytes) {
    if (bytes < 1024) return `${bytes} B`;
    return bytes < 1024 * 1024 ? `${Math.round(bytes / 1024)} kB` : `${(bytes / 1024 / 1024).toFixed(1).replace(".0", "")} MB`;
  }

  // A file that is refused is not uploaded: only its name and size are sent, so that it is listed with the other refused files.
  function judge() {
    let inAll = 0;
    for (const one of chosen) {
      one.refusal = refusal(one.file, inAll);
      if (!one.refusal) inAll += one.file.size;
      one.item.classList.toggle("refused", Boolean(one.refusal));
      if (one.refusal || one.item.querySelector(".file-said").dataset.refused) say(one.item, one.refusal || "", one.refusal);
    }
    const carrier = new DataTransfer();
    for (const { file, refusal } of chosen) if (!refusal) carrier.items.add(file);
    input.files = carrier.files;
    area.querySelectorAll("[name=left_out]").forEach((one) => one.remove());
    for (const { file, refusal } of chosen) if (refusal) area.append(hidden(`${file.size} ${file.name}`));
  }

  function refusal(file, before) {
    const name = file.name.toLowerCase();
    const room = Number(input.dataset.limitInAll) - 100_000; // the rest of the form needs a little
    if (!file.size) return "This file is empty. It won’t be uploaded.";
    if (!input.accept.split(",").some((ending) => name.endsWith(ending))) return "This file type isn’t supported. It won’t be uploaded.";
    if (file.size > Number(input.dataset.limit)) return `This file is too large (limit: ${readable(Number(input.dataset.limit))}). It won’t be uploaded.`;
    if (before + file.size > room) return "Together these files are too large. Submit this one separately.";
    return "";
  }

  function hidden(value) {
    const one = document.createElement("input");
    Object.assign(one, { type: "hidden", name: "left_out", value });
    return one;
  }

  function say(item, words, isRefusal) {
    const place = item.querySelector(".file-said");
    place.textContent = words;
    place.dataset.refused = isRefusal ? "yes" : "";
  }

  // A file that was submitted before is marked as such before it is uploaded. Browsers hash on https and on this machine only.
  async function lookUp(file, item) {
    if (!window.crypto?.subtle || !file.size || file.size > Number(input.dataset.limit) || list.children.length > LOOKED_UP) return;
    try {
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
      const sha256 = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      const answer = await fetch(`${document.body.dataset.root}/api/v1/documents?limit=1&sha256=${sha256}`);
      const [known] = answer.ok ? (await answer.json()).data : [];
      if (!known || item.classList.contains("refused")) return;
      const link = Object.assign(document.createElement("a"), { href: `${document.body.dataset.root}/documents/${known.id}`, textContent: known.title });
      item.querySelector(".file-said").replaceChildren("You already submitted this document: ", link);
      item.classList.add("known");
    } catch { /* it is only a hint */ }
  }

  // The browser itself would replace what is chosen already.
  input.addEventListener("change", () => add([...input.files]));
  input.classList.add("neat");

  // ---- dropping and pasting, anywhere

  let depth = 0;
  const isOfFiles = (event) => event.dataTransfer?.types.includes("Files");
  function enter(change) {
    depth = Math.max(0, depth + change);
    document.documentElement.classList.toggle("dropping", depth > 0);
  }
  addEventListener("dragenter", (event) => { if (isOfFiles(event)) enter(1); });
  addEventListener("dragleave", (event) => { if (isOfFiles(event)) enter(-1); });
  addEventListener("dragover", (event) => { if (isOfFiles(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    if (!isOfFiles(event)) return;
    event.preventDefault();
    enter(-depth);
    add([...event.dataTransfer.files]);
    area.scrollIntoView({ block: "nearest" });
  });
  addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) {
      event.preventDefault();
      return add(files);
    }
    if (event.target.closest("input, textarea, select")) return;
    const box = document.querySelector("#text");
    box.value += event.clipboardData.getData("text/plain");
    box.focus();
    recognise();
  });

  // ---- what is written

  function recognise() {
    const lines = document.querySelector("#text").value.split("\n").map((line) => line.trim()).filter(Boolean);
    const isPages = lines.length > 0 && lines.every((line) => ADDRESS.test(line));
    document.querySelector("#recognised").textContent = isPages ? (lines.length === 1 ? "We’ll fetch this page." : `We’ll fetch these ${lines.length} pages.`) : "";
  }
  document.addEventListener("input", (event) => { if (event.target.id === "text") recognise(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.id === "text") event.target.form.requestSubmit();
  });

  // ---- sending

  const isOurs = (event) => (event.detail.requestConfig?.elt ?? event.target).id === "submit-form";
  const sent = () => chosen.filter(({ refusal }) => !refusal);

  document.addEventListener("htmx:beforeRequest", (event) => { if (isOurs(event)) sending(true); });
  document.addEventListener("htmx:afterRequest", (event) => { if (isOurs(event) && !event.detail.xhr.getResponseHeader("HX-Redirect")) sending(false); });
  document.addEventListener("htmx:afterSwap", () => {
    recognise();
    document.querySelector("#submit-form [aria-invalid=true], #submit-form .error-line")?.scrollIntoView({ block: "center" });
  });

  function sending(isOn) {
    document.querySelector("#sending").hidden = !isOn;
    for (const { item } of sent()) item.querySelector("progress").hidden = !isOn;
    area.classList.toggle("is-sending", isOn);
  }

  // Files are sent one after the other, in the order of the list: what is sent in all says how far each of them is.
  document.addEventListener("htmx:xhr:progress", (event) => {
    const { loaded, total, lengthComputable } = event.detail;
    const size = sent().reduce((sum, { file }) => sum + file.size, 0);
    if (!isOurs(event) || !lengthComputable || total < size || !total) return;
    const bar = document.querySelector("#sending progress");
    if (loaded < total) bar.value = loaded / total;
    else bar.removeAttribute("value");
    bar.nextElementSibling.textContent = loaded < total ? `Uploading… ${Math.round(100 * loaded / total)} %` : "Uploaded. Checking…";
    let before = 0;
    for (const { file, item } of sent()) {
      item.querySelector("progress").value = Math.min(Math.max((loaded * size / total - before) / file.size, 0), 1);
      before += file.size;
    }
  });

  if (input.files.length) add([...input.files]); // the browser has kept them, after going back
  recognise();
})();
