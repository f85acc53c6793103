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
  const sides = ["a", "b"];

  function fill(element, values, wanted) {
    element.replaceChildren(...values.map((value) => new Option(value, value)));
    element.value = values.includes(wanted) ? wanted : values[0] ?? "";
  }

  const runsOf = (defense, attack, seed = ALL) =>
    data.runs.filter((run) => run.defense === defense && run.attack === attack && (seed === ALL || String(run.seed) === seed));

  /** Mean difference of two lists of runs with its interval, and both means, over the same seeds and identities; null
      without anything common. */
  function difference(one, other, anySeed = false) {
    const pairs = one.flatMap((a) => other.filter((b) => anySeed || b.seed === a.seed).map((b) => [a, b]));
    const common = pairs.map(([a, b]) => a.leaked.flatMap((v, i) => (v !== null && b.leaked[i] !== null ? [[v, b.leaked[i]]] : []))).filter((d) => d.length);
    if (!common.length) return null;
    const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;
    const both = [0, 1].map((side) => mean(common.map((people) => mean(people.map((pair) => pair[side])))));
    const bySeed = common.map((people) => people.map(([x, y]) => x - y));
    const means = bySeed.map(mean);
    const values = means.length > 1 ? means : bySeed[0];
    const centre = mean(values);
    const n = values.length;
    if (n < 2) return { mean: mean(means), low: null, high: null, seeds: means.length, both };
    const deviation = Math.sqrt(values.reduce((sum, v) => sum + (v - centre) ** 2, 0) / (n - 1));
    const half = (data.t[Math.min(n - 1, data.t.length) - 1] * deviation) / Math.sqrt(n);
    return { mean: mean(means), low: mean(means) - half, high: mean(means) + half, seeds: means.length, both };
  }

  const points = (value) => {
    const written = (100 * value).toFixed(1);
    return Number(written) === 0 ? "0.0" : (value > 0 ? "+" : "−") + written.replace("-", "");
  };
  const interval = (d) => (d && d.low !== null ? `${points(d.low)} to ${points(d.high)}` : "–");
  const average = (runs, i) => {
    const values = runs.map((run) => run.leaked[i]).filter((v) => v !== null);
    return values.length ? values.reduce((sum, v) => sum + v, 0) / values.length : null;
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
      box.querySelectorAll(`[data-head="${side}"]`).forEach((head) => (head.textContent = choice[side][0]));
    }
    const common = unique(data.runs.map((run) => run.attack)).filter((attack) => sides.every((side) => runsOf(choice[side][0], attack).length));
    find("[data-attacks]").replaceChildren(...common.map((attack) => {
      const [a, b] = sides.map((side) => runsOf(choice[side][0], attack));
      const d = difference(a, b);
      return line([attack, ...(d?.both ?? [null, null]).map(percent), d ? points(d.mean) : "–", interval(d), String(d?.seeds ?? 0)]);
    }));
    const chosen = sides.map((side) => runsOf(...choice[side]));
    const anySeed = sides.every((side) => choice[side][2] !== ALL);
    const [a, b] = [0, 1].map((side) => chosen[side].filter((run) => anySeed || chosen[1 - side].some((other) => other.seed === run.seed)));
    const d = difference(a, b, anySeed);
    const names = sides.map((side) => `${choice[side][0]} against ${choice[side][1]}`);
    find("[data-verdict]").textContent = d
      ? `${names[0]} minus ${names[1]}: ${points(d.mean)} percentage points (${interval(d)}), ${d.seeds} common seed${d.seeds === 1 ? "" : "s"}.`
      : `${names[0]} and ${names[1]} have no seed in common.`;
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
    const other = defenses.find((defense) => defense !== data.reference) ?? defenses[0];
    for (const side of sides) {
      const preset = side === "a" ? other : data.reference ?? defenses[0];
      fill(select(side, "defense"), defenses, params.get(`${side}.defense`) ?? preset);
      const attacks = unique(data.runs.filter((run) => run.defense === select(side, "defense").value).map((run) => run.attack));
      fill(select(side, "attack"), attacks, params.get(`${side}.attack`) ?? select("a", "attack").value);
      const seeds = runsOf(select(side, "defense").value, select(side, "attack").value).map((run) => String(run.seed));
      fill(select(side, "seed"), [ALL, ...seeds], params.get(`${side}.seed`) ?? ALL);
    }
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
