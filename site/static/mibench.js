/* What every page does: theme, state in the address, copy buttons, sortable tables.
   Classic scripts without network or storage, so that the site works from disk. */
"use strict";
const mibench = (() => {
  const root = document.documentElement;
  root.classList.add("js");

  // State lives in the hash as name=value pairs; a hash without "=" is a jump within the page.
  const parse = () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const state = { params: parse(), listeners: [] };
  const isAnchor = () => location.hash.length > 1 && !location.hash.includes("=");

  /** Change the state with a function of its URLSearchParams; one step of the browser's history. */
  function write(change) {
    change(state.params);
    state.params.sort(); // the same state is the same address, however it was reached
    const text = state.params.toString();
    const now = parse();
    now.sort();
    if (text === now.toString()) return;
    history.pushState(null, "", location.pathname + location.search + (text ? `#${text}` : ""));
    keepTheme();
  }

  // --- theme ---------------------------------------------------------------------------------------------------

  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
  const applyTheme = () => {
    const theme = state.params.get("theme");
    if (theme === "dark" || theme === "light") root.dataset.theme = theme;
    else delete root.dataset.theme;
  };
  applyTheme();

  // A chosen theme follows the reader to the other pages in their hash.
  function keepTheme() {
    const theme = root.dataset.theme;
    for (const link of document.querySelectorAll('a[href*=".html"]')) {
      const [page, hash = ""] = link.getAttribute("href").split("#");
      if (/^[a-z]+:/i.test(page) || (hash && !hash.startsWith("theme="))) continue;
      link.setAttribute("href", theme ? `${page}#theme=${theme}` : page);
    }
  }

  function showTheme() {
    document.querySelector("[data-theme-toggle]").textContent = isDark() ? "Light theme" : "Dark theme";
    keepTheme();
    state.listeners.forEach((listener) => listener("theme"));
  }

  // --- small things --------------------------------------------------------------------------------------------

  async function copy(text, status) {
    try {
      await navigator.clipboard.writeText(text);
      status.textContent = "Copied.";
    } catch {
      status.textContent = `Copy this: ${text}`;
    }
  }

  /** Offer a text as a file. */
  function save(name, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  const percent = (value) => (100 * value).toFixed(1);

  /** DataTables on an existing table, with numbers sorted as numbers and missing ones last. */
  function sortable(element, options = {}) {
    if (!sortable.ready) {
      const order = (sign) => (a, b) => {
        const [x, y] = [a, b].map((value) => (value === "" || value === null ? NaN : Number(value)));
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return sign * (x - y);
      };
      DataTable.type("missing-last", { order: { asc: order(1), desc: order(-1) } });
      sortable.ready = true;
    }
    const heads = [...element.querySelectorAll("thead th")];
    const numeric = heads.flatMap((th, i) => (th.classList.contains("num") ? [i] : []));
    return new DataTable(element, {
      paging: false,
      autoWidth: false,
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
      order: [],
      columnDefs: [
        { targets: numeric, type: "missing-last" },
        { targets: "_all", orderSequence: ["asc", "desc"] },
      ],
      language: { zeroRecords: "Everything is filtered out." },
      ...options,
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("table[data-sortable]").forEach((table) => sortable(table));
    state.listeners.forEach((listener) => listener("state"));
    showTheme();
    document.querySelector("[data-theme-toggle]").addEventListener("click", () => {
      const theme = isDark() ? "light" : "dark";
      root.dataset.theme = theme;
      write((params) => params.set("theme", theme));
      showTheme();
    });
    systemDark.addEventListener("change", showTheme);
    for (const button of document.querySelectorAll("[data-copy]")) {
      const box = button.parentElement;
      button.addEventListener("click", () => copy(box.querySelector("code").textContent, box.querySelector(".said")));
    }
    addEventListener("popstate", () => {
      if (isAnchor()) return;
      state.params = parse();
      applyTheme();
      state.listeners.forEach((listener) => listener("state"));
      showTheme();
    });
  });

  return {
    /** The state's URLSearchParams; change it through write() only. */
    get params() { return state.params; },
    write,
    copy,
    save,
    percent,
    sortable,
    /** Call with "state" when the page opens and when the state changed, with "theme" when the theme did. */
    listen: (listener) => state.listeners.push(listener),
  };
})();
