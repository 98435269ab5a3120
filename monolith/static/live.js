// What moves on a page is asked for again: when a stream of events says that something has happened, and where there is no stream
// (it was refused, is cut off, or Intray has no room) every second or two. An event is never shown by itself: the server's state is.
//
// The moving part has `data-events` (the stream), `data-every` (seconds between two questions without a stream; none where nothing
// moves just now), `data-beside` (the same beside a stream, in case it has missed something), and asks by htmx on the event `ask`.
"use strict";

const live = (() => {
  const GAP_MS = 250; // between two questions, however much happens
  const GIVE_UP_MS = 30000; // on a question that nobody answers
  const AGAIN_MS = 30000; // a refused stream is tried again after so long
  const HIDDEN_EVERY_MS = 5000; // a tab that nobody sees, which is to tell when the job is over

  let source = null;
  let isConnected = false;
  let tryAt = 0;
  let isDue = false;
  let isAsking = false;
  let askedAt = Date.now();
  let timer = null;

  function part() {
    return document.querySelector("[data-events]");
  }

  // A browser has six connections for one server: tabs that nobody sees must not hold them.
  function isSeen() {
    return document.visibilityState === "visible";
  }

  function isWanted() {
    return isSeen() || document.documentElement.classList.contains("tells");
  }

  function listen(url) {
    if (source || !isSeen() || Date.now() < tryAt || !window.EventSource) return;
    source = new EventSource(url);
    source.onopen = () => { isConnected = true; hear(); };
    for (const name of ["status", "progress", "ready", "missed"]) source.addEventListener(name, hear);
    source.onerror = () => {
      isConnected = false;
      if (source.readyState === EventSource.CLOSED) hangUp(AGAIN_MS);
    };
  }

  function hangUp(forMs = 0) {
    if (source) source.close();
    source = null;
    isConnected = false;
    tryAt = Date.now() + forMs;
  }

  function hear() {
    isDue = true;
    wake(0);
  }

  function everyMs(element) {
    if (!isSeen()) return HIDDEN_EVERY_MS;
    return 1000 * Number((isConnected ? element.dataset.beside : element.dataset.every) || Infinity);
  }

  function look() {
    const element = part();
    if (!element) { hangUp(); return; }
    if (source && !source.url.endsWith(element.dataset.events)) hangUp();
    listen(element.dataset.events);
    const since = Date.now() - askedAt;
    const isFree = !isAsking || since >= GIVE_UP_MS;
    if (isWanted() && isFree && since >= GAP_MS && (isDue || since >= everyMs(element))) ask(element);
    wake(isDue ? GAP_MS : 500);
  }

  function ask(element) {
    isDue = false;
    askedAt = Date.now();
    htmx.trigger(element, "ask");
  }

  function wake(afterMs) {
    clearTimeout(timer);
    timer = setTimeout(look, afterMs);
  }

  document.addEventListener("visibilitychange", () => {
    if (isSeen()) hear();
    else hangUp();
  });
  document.addEventListener("htmx:beforeRequest", () => { isAsking = true; });
  document.addEventListener("htmx:afterRequest", () => { isAsking = false; });
  document.addEventListener("htmx:afterSwap", () => { localiseTimes(document); wake(0); });
  document.addEventListener("htmx:responseError", (event) => {
    if (event.detail.xhr.status === 404 && part()) delete part().dataset.events; // it was deleted: nothing moves any more
  });
  addEventListener("pagehide", () => hangUp());
  addEventListener("pageshow", (event) => { if (event.persisted) hear(); });
  document.addEventListener("DOMContentLoaded", () => wake(0)); // htmx does not hear `ask` before

  return { part, isConnected: () => isConnected };
})();
