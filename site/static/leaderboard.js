/* The leaderboard: filters that drive the table, the worst attack, the figure and the downloads of a view.
   In the address: defense, kind, family, access and attack (what is shown, once per name; absent when all is), q (search),
   y (the attack on the figure's axis) and sort (column and direction). */
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const section = document.querySelector("[data-board]");
  const data = JSON.parse(section.querySelector("[data-island]").textContent);
  const key = section.dataset.board;
  const find = (selector) => section.querySelector(selector);
  const plot = find(".plot");
  const search = find("[data-search]");
  const axisChoice = find("[data-axis]");
  const chips = [...section.querySelectorAll("[data-filter]")];
  const groups = [...new Set(chips.map((chip) => chip.dataset.filter))];
  const element = find("[data-table]");
  const FIRST = 5; // columns before the attacks
  const initial = [[0, "asc"]];
  let restoring = false;

  const table = mibench.sortable(element, { order: initial });
  const rowAt = (index) => data.rows[Number(table.row(index).node().dataset.row)];
  const chosen = (group) => new Set(chips.filter((c) => c.dataset.filter === group && c.checked).map((c) => c.value));
  const passes = (group, value) => !groups.includes(group) || chosen(group).has(value);
  const words = () => search.value.toLowerCase().split(/\s+/).filter(Boolean);

  const rowShown = (row) =>
    passes("defense", row.label) && passes("kind", row.kind) && words().every((word) => row.label.toLowerCase().includes(word));
  const attackShown = (attack) =>
    passes("attack", attack.label) && passes("family", attack.family) && passes("access", attack.access);
  const shownAttacks = () => data.attacks.flatMap((attack, i) => (attackShown(attack) ? [i] : []));
  table.search.fixed("filters", (_text, _data, index) => rowShown(rowAt(index)));

  const competing = (attacks) => attacks.filter((i) => !data.attacks[i].control);

  /** Index of the attack shown that recovers most from a defense, or null. Controls are none. */
  function worst(row, attacks) {
    const known = competing(attacks).filter((i) => row.y[i]);
    return known.length ? known.reduce((a, b) => (row.y[b][0] > row.y[a][0] ? b : a)) : null;
  }

  /** {attack, y} of the worst attack shown, or null. While no attack is hidden that is the figure that ranks: for each
      seed the attack that was worst on the others. */
  function worstCase(row, attacks) {
    if (row.case && competing(data.attacks.keys().toArray()).every((i) => attacks.includes(i))) return row.case;
    const attack = worst(row, attacks);
    return attack === null ? null : { attack, y: row.y[attack] };
  }

  const visible = () => table.rows({ search: "applied" }).indexes().toArray().map(rowAt);

  function apply() {
    const attacks = shownAttacks();
    data.attacks.forEach((_, i) => table.column(FIRST + i).visible(attacks.includes(i), false));
    table.rows().indexes().toArray().forEach((index) => {
      const row = rowAt(index);
      const cell = table.cell(index, 3).node();
      showWorst(cell, row, worstCase(row, attacks));
    });
    table.rows().invalidate("dom").draw();
    draw();
  }

  function showWorst(cell, row, found) {
    if (cell.dataset.shown === JSON.stringify(found)) return;
    cell.dataset.shown = JSON.stringify(found);
    const add = (name, className, text) => {
      const part = document.createElement(name);
      part.className = className;
      part.textContent = text;
      cell.append(part);
      return part;
    };
    cell.replaceChildren();
    if (found === null) {
      cell.dataset.order = "";
      add("span", "none", "–");
      return;
    }
    const [mean, low, high] = found.y;
    cell.dataset.order = String(mean);
    cell.append(mibench.percent(mean));
    if (low !== null) add("span", "ci", `${mibench.percent(low)}–${mibench.percent(high)}`);
    add("a", "note", data.attacks[found.attack].label).href = section.dataset.root + row.href[found.attack];
  }

  // --- state ---------------------------------------------------------------------------------------------------

  function store() {
    mibench.write((params) => {
      for (const group of groups) {
        params.delete(group);
        const kept = chosen(group);
        if (kept.size === chips.filter((chip) => chip.dataset.filter === group).length) continue;
        for (const value of kept.size ? kept : [""]) params.append(group, value);
      }
      const [column, direction] = table.order()[0] ?? initial[0];
      const set = (name, value) => (value ? params.set(name, value) : params.delete(name));
      set("q", search.value.trim());
      set("y", axisChoice.value);
      set("sort", column === 0 && direction === "asc" ? "" : `${column}-${direction}`);
    });
  }

  function restore() {
    restoring = true;
    const params = mibench.params;
    for (const chip of chips) {
      chip.checked = !params.has(chip.dataset.filter) || params.getAll(chip.dataset.filter).includes(chip.value);
    }
    search.value = params.get("q") ?? "";
    axisChoice.value = data.attacks.some((attack) => attack.label === params.get("y")) ? params.get("y") : "";
    const sort = /^(\d{1,3})-(asc|desc)$/.exec(params.get("sort") ?? "");
    const columns = table.columns().count();
    table.order(sort && Number(sort[1]) < columns ? [[Number(sort[1]), sort[2]]] : initial);
    apply();
    restoring = false;
  }

  // --- the figure ----------------------------------------------------------------------------------------------

  /** Points {row, attack, x, y} of the visible rows. */
  function points(rows, attacks) {
    const fixed = data.attacks.findIndex((attack) => attack.label === axisChoice.value);
    return rows.flatMap((row) => {
      const found = fixed >= 0 ? { attack: fixed, y: row.y[fixed] } : worstCase(row, attacks);
      return found?.y && row.x ? [{ row, attack: found.attack, x: row.x, y: found.y }] : [];
    });
  }

  /** Points that no other one beats (more x, less y), by rising x; as publish.pareto_front. */
  function paretoFront(all) {
    const beats = (p, q) => p.x[0] >= q.x[0] && p.y[0] <= q.y[0] && (p.x[0] > q.x[0] || p.y[0] < q.y[0]);
    return all
      .filter((point) => !all.some((other) => beats(other, point)))
      .sort((p, q) => p.x[0] - q.x[0] || all.indexOf(p) - all.indexOf(q));
  }

  /** Whether a defense faced every required attack among those that count now. */
  function complete(row, attacks) {
    const fixed = data.attacks.findIndex((attack) => attack.label === axisChoice.value);
    const counted = fixed >= 0 ? [fixed] : attacks;
    return counted.every((i) => row.y[i] || !data.required.includes(data.attacks[i].label));
  }

  /** How a point is named: the undefended model as such, an incomplete row with what it faced. */
  function caption(point, attacks) {
    if (point.row.baseline) return `${short(point.row.label)} (no defense)`;
    if (complete(point.row, attacks)) return short(point.row.label);
    const counted = competing(attacks);
    return `${short(point.row.label)} (${counted.filter((i) => point.row.y[i]).length} of ${counted.length} attacks)`;
  }

  // Plotly reads a few HTML tags in texts; names must stay text.
  const plain = (name) => name.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (name) => (name.length > 28 ? `${name.slice(0, 27)}…` : name);

  /** The colour that a CSS value or a class has here, as rgb(): Plotly knows no custom properties. */
  function resolve(value, name = "") {
    const probe = document.createElement("span");
    probe.className = name;
    if (value) probe.style.color = value;
    section.append(probe);
    const colour = getComputedStyle(probe).color;
    probe.remove();
    return colour;
  }

  /** A range of fractions that holds the values with some air, within [-0.02, 1.06]. */
  function spread(values) {
    if (!values.length) return [0, 1];
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const air = Math.max(0.02, (high - low) * 0.12);
    return [Math.max(-0.02, low - air), Math.min(1.06, high + air)];
  }

  function draw() {
    const attacks = shownAttacks();
    const rows = visible().filter((row) => !row.control);
    const all = points(rows, attacks);
    const front = paretoFront(all.filter((point) => point.row.ranked));
    plot.dataset.front = JSON.stringify(front.map((point) => point.row.label));
    find("[data-count]").textContent = `${rows.length} of ${data.rows.filter((row) => !row.control).length} defenses, ${competing(attacks).length} of ${competing(data.attacks.keys().toArray()).length} attacks`;
    find("[data-undrawn]").textContent = rows.length > all.length ? `${rows.length - all.length} without one of the two values are not drawn.` : "";

    const ink = (name) => resolve(`var(${name})`);
    const [x, y] = ["x", "y"].map((name) => spread(all.flatMap((point) => point[name].filter((v) => v !== null))));
    y[0] = Math.min(y[0], -0.01);
    const bar = (name) => ({
      type: "data",
      symmetric: false,
      array: all.map((point) => (point[name][2] === null ? 0 : point[name][2] - point[name][0])),
      arrayminus: all.map((point) => (point[name][1] === null ? 0 : point[name][0] - point[name][1])),
      thickness: 1,
      width: 0,
      color: ink("--strong-line"),
    });
    const axis = (title, range) => ({
      title: { text: title, standoff: 12 }, range, tickformat: ".0%", gridcolor: ink("--line"), linecolor: ink("--strong-line"),
      showline: true, zeroline: false, ticks: "outside", tickcolor: ink("--strong-line"),
    });
    const line = (name, xs, ys, style) => ({
      name, type: "scatter", mode: "lines", x: xs, y: ys, hoverinfo: "skip",
      line: { width: 1.5, color: ink("--quiet"), ...style },
    });
    // To have at least some utility one pays the leakage of the next front point: up first, then right.
    const steps = front.map((point) => [point.x[0], point.y[0]]);
    if (steps.length) {
      steps.unshift([x[0], steps[0][1]]);
      steps.push([steps.at(-1)[0], y[1]]);
    }
    const settings = [...Map.groupBy(all, (point) => point.row.defense).values()].filter((group) => group.length > 1);
    const strengths = settings.map((group) => {
      const sorted = group.toSorted((p, q) => p.x[0] - q.x[0]);
      return line(`settings of ${group[0].row.defense}`, sorted.map((p) => p.x[0]), sorted.map((p) => p.y[0]), {
        dash: "dash", width: 1.2, color: resolve(null, group[0].row.colour),
      });
    });
    const base = all.filter((point) => point.row.baseline);
    const crossed = base.flatMap((point) => [
      line("no defense", [point.x[0], point.x[0]], y, { dash: "dot", width: 1 }),
      line("no defense", x, [point.y[0], point.y[0]], { dash: "dot", width: 1 }),
    ]);
    const narrow = plot.clientWidth < 480;
    const text = ink("--ink");
    const marks = {
      name: "rows",
      type: "scatter",
      mode: all.length <= 16 && !narrow ? "markers+text" : "markers",
      x: all.map((point) => point.x[0]),
      y: all.map((point) => point.y[0]),
      text: all.map((point) => plain(caption(point, attacks))),
      textposition: all.map((point) => (point.x[0] > x[0] + 0.8 * (x[1] - x[0]) ? "top left" : "top right")),
      textfont: { color: text },
      hovertext: all.map((point) => `<b>${plain(point.row.label)}</b> against ${plain(data.attacks[point.attack].label)}<br>natural ${mibench.percent(point.x[0])} %, attack ${mibench.percent(point.y[0])} %<br>${point.row.seeds} seed${point.row.seeds === 1 ? "" : "s"}`),
      hoverinfo: "text",
      marker: {
        size: all.map((point) => (point.row.baseline ? 15 : 12)),
        color: all.map((point) => resolve(null, point.row.colour)),
        symbol: all.map((point) => point.row.shape),
        opacity: all.map((point) => (complete(point.row, attacks) ? 1 : 0.5)),
        line: { width: all.map((point) => (point.row.baseline ? 2 : 1)), color: all.map((point) => ink(point.row.baseline ? "--ink" : "--page")) },
      },
      customdata: all.map((point) => point.row.href[point.attack]),
      error_x: bar("x"),
      error_y: bar("y"),
    };
    const note = (where, label) => ({
      ...where, xref: "paper", yref: "paper", showarrow: false, text: label, font: { size: narrow ? 10 : 12, color: ink("--quiet") },
    });
    Plotly.react(plot, [
      ...crossed,
      line("chance", x, [data.chance, data.chance], { dash: "dashdot", width: 1 }),
      line("front", steps.map((step) => step[0]), steps.map((step) => step[1]), { shape: "vh" }),
      ...strengths,
      marks,
    ], {
      showlegend: false,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(section).fontFamily, size: narrow ? 11 : 13, color: text },
      margin: { l: 60, r: 12, t: 12, b: 52 },
      hoverlabel: { align: "left", bgcolor: ink("--panel"), bordercolor: ink("--strong-line"), font: { color: text } },
      xaxis: axis(narrow ? "Natural accuracy" : "Natural accuracy → more useful", x),
      yaxis: axis(narrow ? "Attack accuracy" : `Attack accuracy, ${data.leakage} ↓ more private`, y),
      annotations: [
        note({ x: 0.99, y: 0.08, xanchor: "right", yanchor: "bottom" }, "useful and private ↘"),
        note({ x: 0.01, y: 0.98, xanchor: "left", yanchor: "top" }, "↖ neither"),
      ],
    }, { displayModeBar: false, responsive: true });
  }

  // --- downloads of what is shown ------------------------------------------------------------------------------

  const quoted = (value) => (/[",\n]/.test(value) ? `"${value.replace(/"/g, '""')}"` : value);
  const inert = (value) => (/^[=+\-@\t\r]/.test(value) ? `'${value}` : value);
  const escape = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
  const latex = (value) => value.replace(/\s+/g, " ").replace(/[\\~^&%$#_{}]/g, (c) => escape[c] ?? `\\${c}`);

  function view() {
    const attacks = shownAttacks();
    return visible().map((row) => {
      const at = worstCase(row, attacks);
      return {
        defense: row.label, method: row.defense, natural: row.x, worst_attack: at && data.attacks[at.attack].label,
        worst: at && at.y, attacks: Object.fromEntries(attacks.map((i) => [data.attacks[i].label, row.y[i]])),
      };
    });
  }

  const formats = {
    CSV(rows) {
      const names = shownAttacks().map((i) => data.attacks[i].label);
      const parts = (name) => [name, `${name}_low`, `${name}_high`];
      const three = (value) => (value ?? ["", "", ""]).map((v) => v ?? "");
      const head = ["defense", ...parts("nat1"), "worst_attack", ...parts("worst"), ...names.flatMap(parts)];
      const lines = rows.map((r) => [r.defense, ...three(r.natural), r.worst_attack ?? "", ...three(r.worst), ...names.flatMap((n) => three(r.attacks[n]))]);
      return [head, ...lines].map((line) => line.map((v) => quoted(typeof v === "string" ? inert(v) : String(v))).join(",")).join("\n") + "\n";
    },
    JSON: (rows) => JSON.stringify({ track: key, link: location.hash, defenses: rows }, null, 1) + "\n",
    LaTeX(rows) {
      const names = shownAttacks().map((i) => data.attacks[i].label);
      const number = (value) => (value ? mibench.percent(value[0]) : "--");
      const lines = rows.map((r) => [latex(r.defense), number(r.natural), number(r.worst), ...names.map((n) => number(r.attacks[n]))].join(" & ") + " \\\\");
      return [`\\begin{tabular}{l${"r".repeat(names.length + 2)}}`, "\\toprule", ["Defense", "Natural", "Worst", ...names.map(latex)].join(" & ") + " \\\\", "\\midrule", ...lines, "\\bottomrule", "\\end{tabular}", ""].join("\n");
    },
    BibTeX(rows) {
      const used = new Set([...rows.map((row) => `defense ${row.method}`), ...shownAttacks().map((i) => `attack ${data.attacks[i].method}`)]);
      return [...new Set([...used].map((name) => data.bibtex[name]).filter(Boolean))].join("\n") || "% no paper is named\n";
    },
  };
  const suffix = { CSV: "csv", JSON: "json", LaTeX: "tex", BibTeX: "bib" };

  // --- listeners -----------------------------------------------------------------------------------------------

  const changed = () => { apply(); store(); };
  chips.forEach((chip) => chip.addEventListener("change", changed));
  search.addEventListener("input", apply);
  search.addEventListener("change", changed);
  axisChoice.addEventListener("change", changed);
  table.on("order", () => !restoring && store());
  find("[data-reset]").addEventListener("click", () => {
    chips.forEach((chip) => (chip.checked = true));
    search.value = axisChoice.value = "";
    changed();
  });
  find("[data-copy-link]").addEventListener("click", () => mibench.copy(location.href, find(".said")));
  find("[data-save]").addEventListener("click", () =>
    Plotly.downloadImage(plot, { format: "svg", filename: `mibench-${key}`, width: 900, height: 540 }));
  for (const button of section.querySelectorAll("[data-save-as]")) {
    const kind = button.dataset.saveAs;
    button.addEventListener("click", () => mibench.save(`mibench-${key}.${suffix[kind]}`, formats[kind](view())));
  }
  restore();
  mibench.listen((what) => (what === "state" ? restore() : draw()));
  plot.on("plotly_click", (event) => {
    const href = event.points.find((point) => point.customdata)?.customdata;
    if (href) location.href = section.dataset.root + href;
  });
});
