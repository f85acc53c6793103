/* The leaderboard in the browser: theme, hash state, filters that drive table and scatter, copy buttons.
   A classic script without network or storage, so that the site works from disk. */
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  // State lives in the hash: theme=dark, track=<key>, and per track <key>.d and <key>.a (what is shown, once per name;
  // absent when all is) and <key>.sort=<column>-<asc|desc>.
  const readState = () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const isAnchor = () => location.hash.length > 1 && !location.hash.includes("=");
  let state = readState();
  const applyTheme = () => {
    const theme = state.get("theme");
    if (theme === "dark" || theme === "light") root.dataset.theme = theme;
    else delete root.dataset.theme;
  };
  applyTheme();

  function writeState(change) {
    change(state);
    const text = state.toString();
    if (text === readState().toString()) return;
    history.pushState(null, "", location.pathname + location.search + (text ? `#${text}` : ""));
    keepTheme();
  }

  // --- theme ---------------------------------------------------------------------------------------------------

  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);

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
    const button = document.querySelector("[data-theme-toggle]");
    button.textContent = isDark() ? "Light theme" : "Dark theme";
    keepTheme();
    boards.forEach((board) => board.draw());
  }

  // --- one track -----------------------------------------------------------------------------------------------

  /** Indices of the points {x, y} that no other one beats (more x, less y), by rising x; as publish.pareto_front. */
  function paretoFront(points) {
    const beats = (p, q) => p.x >= q.x && p.y <= q.y && (p.x > q.x || p.y < q.y);
    return points
      .map((_, index) => index)
      .filter((index) => !points.some((other) => beats(other, points[index])))
      .sort((i, j) => points[i].x - points[j].x || i - j);
  }

  // Plotly reads a few HTML tags in texts; names must stay text.
  const plain = (name) => name.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const percent = (value) => `${(100 * value).toFixed(1)} %`;

  class Board {
    constructor(section) {
      this.section = section;
      this.data = JSON.parse(section.querySelector("[data-island]").textContent);
      this.key = this.data.key;
      this.plot = section.querySelector(".plot");
      this.chips = [...section.querySelectorAll("[data-filter]")];
      this.initial = [[0, "asc"]];
      this.table = this.enhance(section.querySelector("[data-table]"));
      this.listen();
    }

    enhance(element) {
      const numeric = [...element.querySelectorAll("thead th")].flatMap((th, i) => (th.classList.contains("num") ? [i] : []));
      const blank = { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null };
      const table = new DataTable(element, {
        paging: false,
        autoWidth: false,
        layout: blank,
        order: this.initial,
        columnDefs: [
          { targets: numeric, type: "missing-last" },
          { targets: "_all", orderSequence: ["asc", "desc"] },
        ],
        language: { zeroRecords: "Everything is filtered out." },
      });
      table.search.fixed("chips", (_text, _data, index) => this.shown(this.rowAt(table, index)));
      return table;
    }

    rowAt(table, index) {
      return this.data.rows[Number(table.row(index).node().dataset.row)];
    }

    shown(row) {
      return this.chosen("defense").has(row.defense) && this.chosen("attack").has(row.attack);
    }

    chosen(kind) {
      return new Set(this.chips.filter((c) => c.dataset.filter === kind && c.checked).map((c) => c.value));
    }

    listen() {
      const on = (selector, action) => this.section.querySelector(selector).addEventListener("click", action);
      this.chips.forEach((chip) => chip.addEventListener("change", () => this.changed()));
      on("[data-reset]", () => {
        this.chips.forEach((chip) => (chip.checked = true));
        this.changed();
      });
      on("[data-copy-link]", () => {
        const view = new URLSearchParams(state);
        view.set("track", this.key);
        copy(`${location.href.split("#")[0]}#${view}`, this.section.querySelector(".said"));
      });
      on("[data-save]", () =>
        Plotly.downloadImage(this.plot, { format: "svg", filename: `mibench-${this.key}`, width: 900, height: 540 }));
      this.table.on("order", () => !this.restoring && this.store());
    }

    changed() {
      this.table.draw();
      this.draw();
      this.store();
    }

    /** Write what is not the default into the hash. */
    store() {
      writeState((params) => {
        for (const [kind, name] of [["defense", `${this.key}.d`], ["attack", `${this.key}.a`]]) {
          params.delete(name);
          const chosen = this.chosen(kind);
          if (chosen.size === this.chips.filter((chip) => chip.dataset.filter === kind).length) continue;
          for (const value of chosen.size ? chosen : [""]) params.append(name, value);
        }
        const [column, direction] = this.table.order()[0] ?? this.initial[0];
        params.delete(`${this.key}.sort`);
        if (column !== 0 || direction !== "asc") params.set(`${this.key}.sort`, `${column}-${direction}`);
      });
    }

    /** Read the hash into the chips, the table and the figure. */
    restore() {
      this.restoring = true;
      for (const [kind, name] of [["defense", `${this.key}.d`], ["attack", `${this.key}.a`]]) {
        const wanted = new Set(state.getAll(name));
        for (const chip of this.chips) {
          if (chip.dataset.filter === kind) chip.checked = !state.has(name) || wanted.has(chip.value);
        }
      }
      const sort = /^(\d{1,2})-(asc|desc)$/.exec(state.get(`${this.key}.sort`) ?? "");
      const columns = this.table.columns().count() - 1;
      this.table.order(sort && Number(sort[1]) < columns ? [[Number(sort[1]), sort[2]]] : this.initial).draw();
      this.restoring = false;
      this.draw();
    }

    visible() {
      return this.table.rows({ search: "applied" }).indexes().toArray().map((index) => this.rowAt(this.table, index));
    }

    /** The worst visible row of every defense that faced all required attacks among the visible ones, and the front. */
    front(rows) {
      const chosen = this.chosen("attack");
      const required = this.data.required.filter((attack) => chosen.has(attack));
      const groups = new Map();
      for (const row of rows) {
        if (row.y[0] !== null) groups.set(row.defense, [...(groups.get(row.defense) ?? []), row]);
      }
      const worst = [];
      for (const group of groups.values()) {
        const faced = new Set(group.map((row) => row.attack));
        const top = group.reduce((a, b) => (b.y[0] > a.y[0] ? b : a));
        if (required.every((attack) => faced.has(attack)) && top.x[0] !== null) worst.push(top);
      }
      return paretoFront(worst.map((row) => ({ x: row.x[0], y: row.y[0] }))).map((index) => worst[index]);
    }

    draw() {
      const all = this.visible();
      const rows = all.filter((row) => row.x[0] !== null && row.y[0] !== null);
      const front = this.front(all);
      this.plot.dataset.front = JSON.stringify(front.map((row) => row.defense));
      this.section.querySelector("[data-count]").textContent = `${all.length} of ${this.data.rows.length} rows`;
      this.section.querySelector("[data-undrawn]").textContent =
        all.length > rows.length ? `${all.length - rows.length} of the rows lack one of the two values and are not drawn.` : "";
      const style = getComputedStyle(this.section);
      const ink = (name) => resolve(this.section, `var(${name})`);
      const colours = rows.map((row) => resolve(this.section, null, row.colour));
      const bar = (axis) => ({
        type: "data",
        symmetric: false,
        array: rows.map((row) => (row[axis][2] === null ? 0 : row[axis][2] - row[axis][0])),
        arrayminus: rows.map((row) => (row[axis][1] === null ? 0 : row[axis][0] - row[axis][1])),
        thickness: 1,
        width: 0,
        color: ink("--strong-line"),
      });
      const axis = (title, range) => ({
        title: { text: title, standoff: 12 },
        range,
        tickformat: ".0%",
        gridcolor: ink("--line"),
        linecolor: ink("--strong-line"),
        showline: true,
        zeroline: false,
        ticks: "outside",
        tickcolor: ink("--strong-line"),
      });
      const [x, y] = ["x", "y"].map((name) => spread(this.data.rows.flatMap((row) => row[name])));
      const points = {
        name: "rows",
        type: "scatter",
        mode: "markers",
        x: rows.map((row) => row.x[0]),
        y: rows.map((row) => row.y[0]),
        text: rows.map((row) => `<b>${plain(row.defense)}</b> against <b>${plain(row.attack)}</b><br>natural ${percent(row.x[0])}, attack ${percent(row.y[0])}<br>${row.seeds} seed${row.seeds === 1 ? "" : "s"}`),
        hoverinfo: "text",
        marker: { size: 11, color: colours, symbol: rows.map((row) => row.shape), line: { width: 1, color: ink("--page") } },
        error_x: bar("x"),
        error_y: bar("y"),
      };
      // To have at least some utility one pays the leakage of the next front point: up first, then right.
      const steps = front.map((row) => [row.x[0], row.y[0]]);
      if (steps.length) {
        steps.unshift([x[0], steps[0][1]]);
        steps.push([steps.at(-1)[0], y[1]]);
      }
      const line = (name, xs, ys, shape, dash) => ({
        name, type: "scatter", mode: "lines", x: xs, y: ys, hoverinfo: "skip",
        line: { shape, dash, width: 1.5, color: ink("--quiet") },
      });
      const chance = this.data.chance;
      const narrow = this.plot.clientWidth < 480;
      Plotly.react(this.plot, [
        line("front", steps.map((step) => step[0]), steps.map((step) => step[1]), "vh", "solid"),
        line("chance", x, [chance, chance], "linear", "dot"),
        points,
      ], {
        showlegend: false,
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: style.fontFamily, size: narrow ? 11 : 13, color: ink("--ink") },
        margin: { l: 60, r: 12, t: 12, b: 52 },
        hoverlabel: { align: "left", bgcolor: ink("--panel"), bordercolor: ink("--strong-line"), font: { color: ink("--ink") } },
        xaxis: axis(narrow ? "Natural accuracy" : "Natural accuracy (right is more useful)", x),
        yaxis: axis(narrow ? "Attack top-1" : "Attack accuracy, top-1 (down is more private)", y),
      }, { displayModeBar: false, responsive: true });
    }
  }

  /** A range of fractions that holds the values with some air, within [-0.02, 1.02]. */
  function spread(values) {
    const known = values.filter((value) => value !== null);
    if (!known.length) return [0, 1];
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const air = Math.max(0.04, (high - low) * 0.08);
    return [Math.max(-0.02, low - air), Math.min(1.02, high + air)];
  }

  /** The colour that a CSS value or a class has here, as rgb(): Plotly knows no custom properties. */
  function resolve(parent, value, name = "") {
    const probe = document.createElement("span");
    probe.className = name;
    if (value) probe.style.color = value;
    parent.append(probe);
    const colour = getComputedStyle(probe).color;
    probe.remove();
    return colour;
  }

  // --- copying -------------------------------------------------------------------------------------------------

  async function copy(text, status) {
    try {
      await navigator.clipboard.writeText(text);
      status.textContent = "Copied.";
    } catch {
      status.textContent = `Copy this: ${text}`;
    }
  }

  // --- start ---------------------------------------------------------------------------------------------------

  const boards = [];

  function startBoards() {
    if (!document.querySelector("[data-board]")) return;
    const order = (sign) => (a, b) => {
      const [x, y] = [a, b].map((value) => (value === "" || value === null ? NaN : Number(value)));
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return sign * (x - y);
    };
    DataTable.type("missing-last", { order: { asc: order(1), desc: order(-1) } });
    for (const section of document.querySelectorAll("[data-board]")) boards.push(new Board(section));
    boards.forEach((board) => board.restore());
    boards.find((board) => board.key === state.get("track"))?.section.scrollIntoView();
  }

  document.addEventListener("DOMContentLoaded", () => {
    startBoards();
    showTheme();
    document.querySelector("[data-theme-toggle]").addEventListener("click", () => {
      const theme = isDark() ? "light" : "dark";
      root.dataset.theme = theme;
      writeState((params) => params.set("theme", theme));
      showTheme();
    });
    systemDark.addEventListener("change", showTheme);
    for (const button of document.querySelectorAll("[data-copy]")) {
      const box = button.parentElement;
      button.addEventListener("click", () => copy(box.querySelector("code").textContent, box.querySelector(".said")));
    }
    addEventListener("popstate", () => {
      if (isAnchor()) return; // a jump within the page, not a state
      state = readState();
      applyTheme();
      showTheme();
      boards.forEach((board) => board.restore());
    });
  });
})();
