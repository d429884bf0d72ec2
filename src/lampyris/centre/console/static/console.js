// What every page has: shortcuts, the help about them, a word when the centre does not answer, the reader's time zone.
"use strict";
(() => {
  const year = 31536000;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone) document.cookie = `lampyris_zone=${zone};path=/;max-age=${year};samesite=lax`;

  const help = document.getElementById("help");
  const notice = document.getElementById("notice");
  let waits = false;

  const typing = (target) => target.closest("input, select, textarea, [contenteditable]") !== null;
  const pageOf = (key) =>
    [...document.querySelectorAll(".pages a[data-key]")].find((link) => link.dataset.key === key);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    if (event.key === "Escape") {
      document.querySelectorAll("details.menu[open]").forEach((menu) => {
        menu.open = false;
        menu.querySelector("summary").focus();
      });
      if (typing(event.target)) event.target.blur();
      return;
    }
    if (typing(event.target) || document.querySelector("dialog[open]")) return;
    const link = waits ? pageOf(event.key) : undefined;
    waits = event.key === "g";
    if (waits) {
      setTimeout(() => { waits = false; }, 1500);
    } else if (link) {
      link.click();
    } else if (event.key === "?") {
      help.showModal();
    } else if (event.key === "/") {
      const search = document.querySelector("[data-search]");
      if (search) search.focus();
    } else {
      return;
    }
    event.preventDefault();
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-help]")) help.showModal();
    const copied = event.target.closest("[data-copy]");
    if (copied) {
      navigator.clipboard?.writeText(document.getElementById(copied.dataset.copy).textContent.trim()).then(
        () => { copied.textContent = copied.dataset.copied ?? copied.textContent; },
        () => {},
      );
    }
    document.querySelectorAll("details.menu[open]").forEach((menu) => {
      if (!menu.contains(event.target)) menu.open = false;
    });
  });

  const live = () => document.getElementById("live");
  let liveText = "";
  document.addEventListener("htmx:sseError", () => {
    const sign = live();
    if (!sign || sign.classList.contains("lost")) return;
    liveText = sign.textContent;
    sign.textContent = sign.dataset.lost;
    sign.classList.add("lost");
  });
  document.addEventListener("htmx:sseOpen", () => {
    const sign = live();
    if (!sign || !sign.classList.contains("lost")) return;
    sign.textContent = liveText;
    sign.classList.remove("lost");
  });
  // Rows of a live table: each takes the place of the one with its id, a new one goes to the top, the oldest go.
  const place = (row, table) => {
    const old = document.getElementById(row.id);
    if (old) {
      const focused = old.contains(document.activeElement);
      old.replaceWith(row);
      if (focused) row.querySelector("a, button")?.focus();
    } else if ("fresh" in row.dataset) {
      table.prepend(row);
      document.getElementById("nothing")?.remove();
    }
  };
  document.addEventListener("htmx:sseBeforeMessage", (event) => {
    const table = document.getElementById(event.target.dataset.rows ?? "");
    if (!table) return;
    event.preventDefault();
    const template = document.createElement("template");
    template.innerHTML = event.detail.data;
    [...template.content.children].forEach((row) => place(row, table));
    while (table.children.length > Number(table.dataset.most)) table.lastElementChild.remove();
  });

  let hiding;
  const say = (text) => {
    notice.textContent = text;
    clearTimeout(hiding);
    hiding = setTimeout(() => { notice.textContent = ""; }, 8000);
  };
  document.addEventListener("htmx:sendError", () => say(notice.dataset.lost));
  document.addEventListener("htmx:responseError", (event) => {
    let detail = "";
    try {
      detail = JSON.parse(event.detail.xhr.responseText).detail;
    } catch {
      detail = "";
    }
    say(`${notice.dataset.failed} ${detail || ""}`);
  });
})();
