// The page of a job: what is told to those who do not look at it, and findings that are ticked off.
"use strict";

// ---- in words, for those who hear the page

function announce() {
  const job = document.querySelector("#live");
  const place = document.querySelector("#announced");
  if (job && place && place.textContent !== job.dataset.words) place.textContent = job.dataset.words;
}

// ---- a notification, for who asked for one

const tellMe = document.querySelector("#tell-me");

function isToTell() {
  return document.documentElement.classList.contains("tells");
}

function showWish(words, isPressed) {
  tellMe.querySelector("span").textContent = words;
  tellMe.setAttribute("aria-pressed", String(isPressed));
  document.documentElement.classList.toggle("tells", isPressed);
}

async function wish() {
  if (isToTell()) return showWish("Notify me when it’s done", false);
  const answer = await Notification.requestPermission();
  if (answer === "granted") return showWish("You’ll be notified", true);
  tellMe.disabled = answer === "denied";
  return showWish(answer === "denied" ? "Notifications are blocked in your browser" : "Notify me when it’s done", false);
}

function tell() {
  if (!tellMe || live.part()) return;
  tellMe.classList.add("over");
  if (!isToTell()) return;
  document.documentElement.classList.remove("tells");
  const title = document.querySelector("h1").textContent;
  const said = new Notification(title, { body: document.querySelector("#live").dataset.words, tag: location.pathname });
  said.onclick = () => { window.focus(); said.close(); };
}

if (tellMe && "Notification" in window) {
  tellMe.hidden = false;
  tellMe.addEventListener("click", wish);
}

// ---- ticks, kept in this browser

function showTicks() {
  for (const box of document.querySelectorAll("input[data-tick]")) {
    if (!box.closest(".tick").hidden) continue;
    box.closest(".tick").hidden = false;
    box.checked = localStorage.getItem(box.dataset.tick) !== null;
    box.addEventListener("change", () => {
      if (box.checked) localStorage.setItem(box.dataset.tick, "1");
      else localStorage.removeItem(box.dataset.tick);
      countTicks();
    });
  }
  countTicks();
}

function countTicks() {
  const place = document.querySelector("#ticked");
  const boxes = [...document.querySelectorAll("input[data-tick]")];
  if (place) place.textContent = boxes.length ? `${boxes.filter((box) => box.checked).length} of ${boxes.length} fixed` : "";
}

document.addEventListener("htmx:afterSwap", () => { announce(); tell(); showTicks(); });
showTicks();
