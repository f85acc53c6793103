/* The figure of utility against leakage, as SVG that the style sheet colours. Points are links. */
"use strict";
/** Draw into ``holder``. spec: points {x, y: [mean, low, high], name, short, text, href, colour, shape, faint, base, group},
    front (points, by rising x), levels [{name, y}], and the titles of the axes. */
mibench.figure = (holder, spec) => {
  const [width, height] = [holder.clientWidth, holder.clientHeight];
  if (!width) return;
  const narrow = width < 480;
  const size = narrow ? 11 : 13;
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `${size}px ${getComputedStyle(holder).fontFamily}`;
  const long = (text) => pen.measureText(text).width;

  function make(name, attributes = {}, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  // --- scales ----------------------------------------------------------------------------------------------------

  const levels = spec.levels.toSorted((p, q) => p.y - q.y).map((level) => ({ ...level, text: `${level.name} ${mibench.percent(level.y)} %` }));
  const known = (axis) => spec.points.flatMap((point) => point[axis].filter((value) => value !== null));
  const room = (values, least) => {
    if (!values.length) return [0, 1];
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const air = Math.max(least, (high - low) * 0.08);
    return [Math.max(0, low - air), Math.min(1, high + air)];
  };
  const x = room(known("x"), 0.02);
  const y = [0, room([...known("y"), ...levels.map((level) => level.y)], 0.02)[1]];
  const beside = narrow ? 0 : Math.max(0, ...levels.map((level) => long(level.text))) + 8;
  const box = { left: narrow ? 58 : 68, right: width - 12 - beside, top: 10, bottom: height - (narrow ? 46 : 52) };
  const across = (value) => box.left + ((value - x[0]) / (x[1] - x[0] || 1)) * (box.right - box.left);
  const up = (value) => box.bottom - ((value - y[0]) / (y[1] - y[0] || 1)) * (box.bottom - box.top);

  function ticks([low, high], most) {
    const raw = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= raw * 0.999);
    const first = Math.ceil(low / step - 1e-9);
    return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
  }

  // --- what lies below -------------------------------------------------------------------------------------------

  const drawing = make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${spec.title}: ${spec.points.length} points`, "font-size": size });
  const layer = (name) => drawing.appendChild(make("g", { class: name }));
  const line = (holder_, name, x1, y1, x2, y2) => holder_.append(make("line", { class: name, x1, y1, x2, y2 }));
  const write = (holder_, text, attributes) => holder_.append(make("text", attributes, text));

  const axes = layer("axes");
  for (const value of ticks(x, narrow ? 4 : 7)) {
    line(axes, "grid", across(value), box.top, across(value), box.bottom);
    write(axes, `${Number((100 * value).toFixed(2))} %`, { x: across(value), y: box.bottom + size + 5, "text-anchor": "middle" });
  }
  for (const value of ticks(y, 6)) {
    line(axes, "grid", box.left, up(value), box.right, up(value));
    write(axes, `${Number((100 * value).toFixed(2))} %`, { x: box.left - 8, y: up(value) + size / 3, "text-anchor": "end" });
  }
  line(axes, "axis", box.left, box.bottom, box.right, box.bottom);
  line(axes, "axis", box.left, box.top, box.left, box.bottom);
  write(axes, narrow ? "Natural accuracy" : "Natural accuracy → more useful", { class: "title xtitle", x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle" });
  write(axes, narrow ? "Attack accuracy" : `Attack accuracy, ${spec.leakage} ↓ more private`, { class: "title ytitle", transform: `translate(${size + 1} ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" });

  const taken = []; // boxes [x, y, width, height] that no label may touch
  // To have at least some utility one pays the leakage of the next front point: up first, then right.
  if (spec.front.length) {
    const corners = [`${box.left} ${up(spec.front[0].y[0])}`];
    spec.front.forEach((point, i) => {
      corners.push(`${across(point.x[0])} ${up(point.y[0])}`, `${across(point.x[0])} ${i + 1 < spec.front.length ? up(spec.front[i + 1].y[0]) : box.top}`);
    });
    drawing.append(make("path", { class: "beaten", d: `M${corners.join("L")}L${box.left} ${box.top}Z` }), make("path", { class: "front", d: `M${corners.join("L")}` }));
  }
  let last = Infinity;
  for (const level of levels) {
    line(layer("level"), "", box.left, up(level.y), box.right, up(level.y));
    last = Math.min(up(level.y) + size / 3, last - size - 1);
    const place = narrow ? { x: box.right - 2, y: Math.min(up(level.y) - 3, last), "text-anchor": "end" } : { x: box.right + 6, y: last };
    write(drawing.lastChild, level.text, place);
    if (narrow) taken.push([box.right - long(level.text), place.y - size, long(level.text), size]);
  }
  for (const point of spec.points.filter((one) => one.base)) {
    const none = layer("crossing");
    line(none, "", across(point.x[0]), box.top, across(point.x[0]), box.bottom);
    line(none, "", box.left, up(point.y[0]), box.right, up(point.y[0]));
  }
  for (const group of Map.groupBy(spec.points, (point) => point.group).values()) {
    const sorted = group.toSorted((p, q) => p.x[0] - q.x[0]);
    if (group.length > 1) drawing.append(make("path", { class: `settings ${group[0].colour}`, d: `M${sorted.map((p) => `${across(p.x[0])} ${up(p.y[0])}`).join("L")}` }));
  }

  // --- points, their labels and what they say --------------------------------------------------------------------

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  const show = (point, mark) => {
    tip.replaceChildren(...point.text.flatMap((text, i) => (i ? [document.createElement("br"), text] : [Object.assign(document.createElement("strong"), { textContent: text })])));
    tip.hidden = false;
    const left = Math.min(across(point.x[0]) + 12, width - tip.offsetWidth - 4);
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(0, up(point.y[0]) - tip.offsetHeight - 12)}px`;
    mark.classList.add("on");
  };
  taken.push(...spec.points.map((point) => [across(point.x[0]) - 7, up(point.y[0]) - 7, 14, 14]));
  const free = ([a, b, c, d]) => a >= box.left && a + c <= box.right + 4 && b >= box.top && b + d <= box.bottom && !taken.some(([p, q, r, s]) => a < p + r && p < a + c && b < q + s && q < b + d);

  function labelled(point, mark) {
    const text = narrow ? point.short : point.name;
    const [w, h] = [long(text), size + 2];
    const [cx, cy] = [across(point.x[0]), up(point.y[0])];
    for (const away of [9, 18, 30]) {
      const near = [[cx + away, cy - away - h / 2], [cx - away - w, cy - away - h / 2], [cx + away, cy + away - h / 2], [cx - away - w, cy + away - h / 2], [cx - w / 2, cy - away - h], [cx - w / 2, cy + away]];
      const spot = near.map(([left, top]) => [left, top, w, h]).find(free);
      if (!spot) continue;
      taken.push(spot);
      if (away > 9) mark.append(make("line", { class: "leader", x1: cx, y1: cy, x2: Math.min(Math.max(cx, spot[0]), spot[0] + w), y2: spot[1] > cy ? spot[1] : spot[1] + h }));
      mark.append(make("text", { x: spot[0], y: spot[1] + h - 3 }, text));
      return;
    }
  }

  const marks = layer("points");
  for (const point of spec.points) {
    const mark = make("a", { href: point.href, class: `point ${point.colour}${point.faint ? " faint" : ""}${point.base ? " base" : ""}`, "aria-label": point.text.join(", "), "data-label": point.label, "data-x": point.x[0], "data-y": point.y[0] });
    const [cx, cy] = [across(point.x[0]), up(point.y[0])];
    if (point.x[1] !== null) line(mark, "bar", across(Math.max(point.x[1], x[0])), cy, across(point.x[2]), cy);
    if (point.y[1] !== null) line(mark, "bar", cx, up(point.y[1]), cx, up(point.y[2]));
    const scale = point.base ? 1.25 : 1;
    mark.append(make("circle", { class: "target", cx, cy, r: 12 }), make("path", { class: `mark${point.shape.open ? " open" : ""}`, d: point.shape.path, transform: `translate(${cx - 6 * scale} ${cy - 6 * scale}) scale(${scale})` }));
    labelled(point, mark);
    for (const event of ["pointerenter", "focus"]) mark.addEventListener(event, () => show(point, mark));
    for (const event of ["pointerleave", "blur"]) mark.addEventListener(event, () => { tip.hidden = true; mark.classList.remove("on"); });
    marks.append(mark);
  }
  holder.replaceChildren(drawing, tip);
};

/** The figure as a file of its own: with the colours that the style sheet gives it here. */
mibench.figureFile = (holder) => {
  const drawing = holder.querySelector("svg");
  const copy = drawing.cloneNode(true);
  const all = [...drawing.querySelectorAll("*")];
  [...copy.querySelectorAll("*")].forEach((element, i) => {
    const style = getComputedStyle(all[i]);
    for (const name of ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-weight"]) element.setAttribute(name, style.getPropertyValue(name));
    for (const name of ["class", "href", "aria-label"]) element.removeAttribute(name);
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("font-family", "sans-serif");
  return new XMLSerializer().serializeToString(copy);
};
