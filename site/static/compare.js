/* Two defenses (or two runs) side by side, computed from every run's figures per identity as publish.compare does.
   In the address: a.defense, a.attack, a.seed and the same of b. */
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const box = document.querySelector("[data-compare]");
  const data = JSON.parse(document.querySelector("[data-island]").textContent);
  const find = (selector) => box.querySelector(selector);
  const ALL = "all common";
  const select = (side, part) => find(`select[data-side="${side}"][data-part="${part}"]`);
  const unique = (values) => [...new Set(values)];
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const sides = ["a", "b"];
  const called = Object.fromEntries(data.defenses);

  function fill(element, values, wanted, names = {}) {
    element.replaceChildren(...values.map((value) => new Option(names[value] ?? value, value)));
    element.value = values.includes(wanted) ? wanted : values[0] ?? "";
  }

  const runsOf = (defense, attack, seed = ALL) =>
    data.runs.filter((run) => run.defense === defense && run.attack === attack && (seed === ALL || String(run.seed) === seed));

  /** The mean of the differences with its interval: over their means where there are several groups, else over the one's. */
  function interval(groups, { a, b }) {
    const means = groups.map(mean);
    const values = means.length > 1 ? means : groups[0];
    const n = values.length;
    const found = { a: mean(a), b: mean(b), mean: mean(means), low: null, high: null, seeds: means.length };
    if (n < 2) return found;
    const centre = mean(values);
    const deviation = Math.sqrt(values.reduce((sum, v) => sum + (v - centre) ** 2, 0) / (n - 1));
    const half = (data.t[Math.min(n - 1, data.t.length) - 1] * deviation) / Math.sqrt(n);
    return { ...found, low: found.mean - half, high: found.mean + half };
  }

  /** Of two lists of runs, paired by seed and identity, both means over what they have in common; null without anything. */
  function difference(one, other, anySeed = false) {
    const pairs = one.flatMap((a) => other.filter((b) => anySeed || b.seed === a.seed).map((b) => [a, b]));
    const common = pairs.map(([a, b]) => a.leaked.flatMap((v, i) => (v !== null && b.leaked[i] !== null ? [[v, b.leaked[i]]] : []))).filter((d) => d.length);
    if (!common.length) return null;
    const of = (side) => common.map((values) => mean(values.map((pair) => pair[side])));
    return interval(common.map((values) => values.map(([v, w]) => v - w)), { a: of(0), b: of(1) });
  }

  /** Natural accuracy of two defenses over the seeds that both trained. */
  function utility(one, other) {
    const [a, b] = [one, other].map((defense) => new Map(data.runs.filter((run) => run.defense === defense && run.natural !== null).map((run) => [run.seed, run.natural])));
    const seeds = [...a.keys()].filter((seed) => b.has(seed));
    if (!seeds.length) return null;
    return interval(seeds.map((seed) => [a.get(seed) - b.get(seed)]), { a: seeds.map((seed) => a.get(seed)), b: seeds.map((seed) => b.get(seed)) });
  }

  const points = (value) => {
    const written = (100 * value).toFixed(1);
    return Number(written) === 0 ? "0.0" : (value > 0 ? "+" : "−") + written.replace("-", "");
  };
  const range = (d) => (d && d.low !== null ? `${points(d.low)} to ${points(d.high)}` : "–");
  const average = (runs, i) => {
    const values = runs.map((run) => run.leaked[i]).filter((v) => v !== null);
    return values.length ? mean(values) : null;
  };
  const percent = (value) => (value === null ? "–" : mibench.percent(value));

  function line(cells) {
    const row = document.createElement("tr");
    cells.forEach((content, i) => {
      const cell = document.createElement(i ? "td" : "th");
      if (!i) cell.scope = "row";
      if (i && typeof content === "string") cell.className = "num";
      cell.append(content);
      row.append(cell);
    });
    return row;
  }

  /** One line of the forest, as the macro of the same name draws it. Less is better where ``better`` is below zero. */
  function forest(name, d, better) {
    const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const make = (kind, attributes) => {
      const part = document.createElementNS(drawing.namespaceURI, kind);
      for (const [key, value] of Object.entries(attributes)) part.setAttribute(key, value);
      drawing.append(part);
    };
    const at = (value) => `${(100 * Math.min(Math.max(value, 0), 1)).toFixed(2)}%`;
    const sure = d && d.seeds > 1 && d.low !== null && (d.low > 0 || d.high < 0);
    for (const [key, value] of Object.entries({ width: "100%", height: 18, "aria-hidden": "true" })) drawing.setAttribute(key, value);
    make("line", { class: "grid", x1: 0, x2: "100%", y1: 17.5, y2: 17.5 });
    make("line", { class: "grid", x1: "50%", x2: "50%", y1: 0, y2: 18 });
    if (d && d.low !== null) make("line", { class: "bar", x1: at(d.b + d.low), x2: at(d.b + d.high), y1: 9, y2: 9 });
    if (d) make("circle", { class: "without", cx: at(d.b), cy: 9, r: 5 });
    if (d) make("circle", { class: `with ${sure ? (d.mean * better > 0 ? "good" : "bad") : ""}`, cx: at(d.a), cy: 9, r: 5 });
    const row = line([name, drawing, percent(d?.a ?? null), percent(d?.b ?? null), d ? points(d.mean) : "–", range(d), String(d?.seeds ?? 0)]);
    ["", "picture", "num first", "num second", "num", "num range", "num seeds-of"].forEach((name_, i) => (row.children[i].className = name_));
    return row;
  }

  function pictures(runs, i) {
    const holder = document.createElement("div");
    holder.className = "pair";
    runs.slice(0, 1).forEach((run) => {
      const index = run.images?.[i] ?? null;
      if (index === null) return;
      const image = new Image(72, 72);
      image.loading = "lazy";
      image.alt = `${run.defense} against ${run.attack}, identity ${data.identities[i]}`;
      image.src = `${box.dataset.root}img/${run.run}/${data.identities[i]}-${index}.png`;
      holder.append(image);
    });
    return holder;
  }

  function show() {
    const choice = Object.fromEntries(sides.map((side) => [side, ["defense", "attack", "seed"].map((part) => select(side, part).value)]));
    for (const side of sides) {
      box.querySelectorAll(`[data-head="${side}"]`).forEach((head) => (head.textContent = called[choice[side][0]]));
    }
    const used = utility(choice.a[0], choice.b[0]);
    const common = unique(data.runs.map((run) => run.attack)).filter((attack) => !data.controls.includes(attack) && sides.every((side) => runsOf(choice[side][0], attack).length));
    const compared = common.map((attack) => [attack, difference(...sides.map((side) => runsOf(choice[side][0], attack)))]);
    compared.sort(([, p], [, q]) => (q?.b ?? -1) - (p?.b ?? -1));
    const accuracy = forest("Natural accuracy", used, 1);
    accuracy.className = "total";
    find("[data-attacks]").replaceChildren(accuracy, ...compared.map(([attack, d]) => {
      const row = forest(data.attacks[attack], d, -1);
      row.dataset.attack = attack;
      return row;
    }));
    const chosen = sides.map((side) => runsOf(...choice[side]));
    const anySeed = sides.every((side) => choice[side][2] !== ALL);
    const [a, b] = [0, 1].map((side) => chosen[side].filter((run) => anySeed || chosen[1 - side].some((other) => other.seed === run.seed)));
    const d = difference(a, b, anySeed);
    const names = sides.map((side) => `${called[choice[side][0]]} against ${data.attacks[choice[side][1]]}`);
    const cost = used ? ` Natural accuracy ${percent(used.a)} and ${percent(used.b)} %: ${points(used.mean)} (${range(used)}).` : "";
    find("[data-verdict]").textContent = (d
      ? `${names[0]} minus ${names[1]}: ${percent(d.a)} and ${percent(d.b)} %, ${points(d.mean)} percentage points (${range(d)}), ${d.seeds === 1 ? "one training: no evidence about a method" : `${d.seeds} common seeds`}.`
      : `${names[0]} and ${names[1]} have no seed in common.`) + cost;
    find("[data-people]").replaceChildren(...data.identities.map((label, i) => {
      const [x, y] = [average(a, i), average(b, i)];
      const both = document.createElement("div");
      both.className = "thumbs";
      both.append(pictures(a, i), pictures(b, i));
      return line([String(label), percent(x), percent(y), x === null || y === null ? "–" : points(x - y), both]);
    }));
  }

  function restore() {
    const params = mibench.params;
    const defenses = unique(data.runs.map((run) => run.defense));
    const ordered = data.defenses.map(([label]) => label).filter((label) => defenses.includes(label));
    const other = ordered.find((defense) => defense !== data.reference) ?? ordered[0];
    // It opens on the attack that is worst without the defense, if the defense met it.
    for (const side of sides) {
      const preset = side === "a" ? other : data.reference ?? ordered[0];
      fill(select(side, "defense"), ordered, params.get(`${side}.defense`) ?? preset, called);
    }
    const met = sides.map((side) => unique(data.runs.filter((run) => run.defense === select(side, "defense").value).map((run) => run.attack)));
    const worst = sides.map((side) => data.worst[select(side, "defense").value]).reverse().find((attack) => met.every((attacks) => attacks.includes(attack)));
    sides.forEach((side, i) => {
      fill(select(side, "attack"), met[i], params.get(`${side}.attack`) ?? (side === "b" ? select("a", "attack").value : worst), data.attacks);
      const seeds = runsOf(select(side, "defense").value, select(side, "attack").value).map((run) => String(run.seed));
      fill(select(side, "seed"), [ALL, ...seeds], params.get(`${side}.seed`) ?? ALL);
    });
    show();
  }

  box.addEventListener("change", (event) => {
    const element = event.target;
    if (!element.matches("select[data-side]")) return;
    mibench.write((params) => {
      for (const side of sides) {
        for (const part of ["defense", "attack", "seed"]) params.set(`${side}.${part}`, select(side, part).value);
      }
      if (element.dataset.part === "attack" && element.dataset.side === "a") params.set("b.attack", element.value);
    });
    restore();
  });
  if (data.runs.length) mibench.listen((what) => what === "state" && restore());
  if (data.runs.length) restore();
});
