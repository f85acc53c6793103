/* The leaderboard: filters that drive the table, the worst attack, the figure and the downloads of a view.
   In the address: defense, kind, family, access and attack (what is shown, once per name; absent when all is), q (search),
   y (the attack on the figure's axis), differences and more (what cells show) and sort (column and direction). */
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
  const heads = [...element.querySelectorAll("thead th")];
  const FIRST = heads.findIndex((head) => head.dataset.attack !== undefined); // columns before the attacks
  const WORST = heads.findIndex((head) => head.dataset.worst !== undefined);
  const shows = [...section.querySelectorAll("[data-show]")];
  const initial = [[0, "asc"]];
  let restoring = false;

  const table = mibench.sortable(element, { order: initial });
  const rowAt = (index) => data.rows[Number(table.row(index).node().dataset.row)];
  const chosen = (group) => new Set(chips.filter((c) => c.dataset.filter === group && c.checked).map((c) => c.value));
  const passes = (group, value) => !groups.includes(group) || chosen(group).has(value);
  const words = () => search.value.toLowerCase().split(/\s+/).filter(Boolean);

  // A word that names a defense chooses rows; one that names only attacks chooses columns.
  const names = (thing, word) => `${thing.label} ${thing.name}`.toLowerCase().includes(word);
  const wanted = (kind) => words().filter((word) => data.rows.some((row) => names(row, word)) === (kind === "rows"));
  const known = () => words().every((word) => data.rows.concat(data.attacks).some((thing) => names(thing, word)));

  const rowShown = (row) =>
    passes("defense", row.label) && passes("kind", row.kind) && known() && wanted("rows").every((word) => names(row, word));
  const attackShown = (attack) =>
    passes("attack", attack.label) && passes("family", attack.family) && passes("access", attack.access) && wanted("columns").every((word) => !known() || names(attack, word));
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
      const cell = table.cell(index, WORST).node();
      showWorst(cell, row, worstCase(row, attacks));
    });
    const differences = shows.some((show) => show.dataset.show === "differences" && show.checked);
    element.querySelectorAll("td.attack").forEach((cell) => (cell.dataset.order = differences ? cell.dataset.apart : cell.dataset.own));
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
    add("a", "note", data.attacks[found.attack].name).href = section.dataset.root + row.href[found.attack];
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
      for (const show of shows) set(show.dataset.show, show.checked ? "yes" : "");
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
    for (const show of shows) show.checked = params.has(show.dataset.show);
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

  /** A point's name; of an incomplete row with what it faced. */
  function caption(point, attacks, name) {
    if (complete(point.row, attacks)) return name;
    const counted = competing(attacks);
    return `${name} (${counted.filter((i) => point.row.y[i]).length} of ${counted.length} attacks)`;
  }

  const short = (name) => (name.length > 32 ? `${name.slice(0, 31)}…` : name);
  const range = (y) => (y[1] === null ? "" : ` (95 % interval ${mibench.percent(y[1])} to ${mibench.percent(y[2])})`);

  function draw() {
    const attacks = shownAttacks();
    const rows = visible().filter((row) => !row.control);
    const all = points(rows, attacks).map((point) => ({
      ...point,
      label: point.row.label,
      name: short(caption(point, attacks, point.row.name)),
      short: short(caption(point, attacks, point.row.label)),
      text: [
        `${short(point.row.name)} against ${short(data.attacks[point.attack].name)}`,
        `natural ${mibench.percent(point.x[0])} %${range(point.x)}`,
        `attack ${mibench.percent(point.y[0])} %${range(point.y)}`,
        `${point.row.seeds} seed${point.row.seeds === 1 ? "" : "s"}`,
      ],
      href: section.dataset.root + point.row.href[point.attack],
      colour: point.row.colour,
      shape: point.row.shape,
      faint: !complete(point.row, attacks),
      base: point.row.baseline,
      group: point.row.defense,
    }));
    const front = paretoFront(all.filter((point) => point.row.ranked));
    plot.dataset.front = JSON.stringify(front.map((point) => point.label));
    find("[data-count]").textContent = `${rows.length} of ${data.rows.filter((row) => !row.control).length} defenses, ${competing(attacks).length} of ${competing(data.attacks.keys().toArray()).length} attacks`;
    find("[data-undrawn]").textContent = rows.length > all.length ? `${rows.length - all.length} without one of the two values are not drawn.` : "";
    const levels = [...data.lines, { name: "guessing", y: data.chance }];
    mibench.figure(plot, { points: all, front, levels, leakage: data.leakage, title: "Natural accuracy and attack accuracy" });
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
  shows.forEach((show) => show.addEventListener("change", changed));
  table.on("order", () => !restoring && store());
  find("[data-reset]").addEventListener("click", () => {
    chips.forEach((chip) => (chip.checked = true));
    shows.forEach((show) => (show.checked = false));
    search.value = axisChoice.value = "";
    changed();
  });
  find("[data-copy-link]").addEventListener("click", () => mibench.copy(location.href, find(".said")));
  find("[data-save]").addEventListener("click", () => mibench.save(`mibench-${key}.svg`, mibench.figureFile(plot)));
  for (const button of section.querySelectorAll("[data-save-as]")) {
    const kind = button.dataset.saveAs;
    button.addEventListener("click", () => mibench.save(`mibench-${key}.${suffix[kind]}`, formats[kind](view())));
  }
  restore();
  mibench.listen((what) => what === "state" && restore());
  new ResizeObserver(draw).observe(plot);
  // In a column's head the link leads on; everything around it sorts.
  element.querySelectorAll("thead a").forEach((link) => link.addEventListener("click", (event) => event.stopPropagation()));
});
