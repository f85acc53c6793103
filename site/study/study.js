"use strict";
// The page of a human study: shows one item after another in the rater's own order, keeps the answers in this browser,
// and saves them as a file. It knows no right answer.
(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const find = (id) => document.getElementById(id);
  let rater = "", place = 0, answers = {};

  const memory = `mibench-study-${study.study}-`;
  const recall = () => { try { return JSON.parse(localStorage.getItem(memory + rater)) || {}; } catch { return {}; } };
  const remember = () => { try { localStorage.setItem(memory + rater, JSON.stringify(answers)); } catch { /* private window */ } };
  const order = () => study.order[rater];

  function element(tag, properties = {}, children = []) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }
  const picture = (name, alt) => element("img", { src: study.images[name], alt });
  const photos = (names, small) => element("div", { className: small ? "photos small" : "photos" },
    names.map((name, i) => picture(name, `Photograph ${i + 1}`)));
  const group = (title, child) => element("div", { className: "group" }, [element("h2", { textContent: title }), child]);

  function choice(value, content, number) {
    const made = element("button", { type: "button" }, content);
    made.dataset.answer = value;
    made.setAttribute("aria-pressed", String(answers[current()[0]] === value));
    made.setAttribute("aria-keyshortcuts", String(number));
    made.addEventListener("click", () => answer(value));
    return made;
  }
  const words = (value, text, number) => choice(value, [text], number);
  const pictured = (value, text, number) => {
    const made = choice(value, [picture(value, ""), element("span", { textContent: text })], number);
    made.classList.add("picture");
    return made;
  };
  const choices = (list) => element("div", { className: "choices" }, list);
  const current = () => order()[place];

  // One function per task: the question, and what stands below it.
  const tasks = {
    lineup: (item, shown) => [`Which photograph shows the ${item.noun} of the picture?`, [
      group("Picture", photos([item.query])),
      group("Photographs", choices(shown.map((name, i) => pictured(name, String(i + 1), i + 1)))),
    ]],
    same: (item) => [`Does the picture show the ${item.noun} of the photographs?`, [
      element("div", { className: "side" }, [group("Picture", photos([item.query])), group("Photographs", photos(item.photos, true))]),
      choices(study.answers.same.map((value, i) => words(value, { yes: "Yes", no: "No", unsure: "Cannot tell" }[value], i + 1))),
    ]],
    pair: (item, shown) => [`Which picture looks more like the ${item.noun} of the photographs?`, [
      group("Photographs", photos(item.photos, true)),
      group("Pictures", choices([
        ...shown.map((name, i) => pictured(name, String(i + 1), i + 1)),
        words(study.answers.neither, "Neither", shown.length + 1),
      ])),
    ]],
  };

  function show() {
    const [name, sides] = current();
    const item = study.items[name];
    const [question, parts] = tasks[item.task](item, sides.map((i) => item.options[i]));
    find("question").textContent = question;
    find("stage").replaceChildren(...parts);
    const count = find("stage").querySelectorAll("[data-answer]").length;
    find("keys").textContent = `Keys 1 to ${count} answer.`;
    find("count").textContent = `${place + 1} of ${order().length}`;
    Object.assign(find("progress"), { value: place, max: order().length });
    find("back").disabled = place === 0;
    only("ask", "question");
  }

  function only(section, focus) {
    for (const name of ["start", "ask", "end"]) find(name).hidden = name !== section;
    if (focus) find(focus).focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }

  function answer(value) {
    answers[current()[0]] = value;
    remember();
    place += 1;
    if (place < order().length) show(); else end();
  }

  function end() {
    const done = Object.keys(answers).length, all = order().length;
    find("thanks").textContent = done === all ? "Thank you. That was all." : `You answered ${done} of ${all}.`;
    find("saved").textContent = "";
    only("end", "thanks");
  }

  function save() {
    const given = order().filter(([name]) => name in answers).map(([name]) => ({ item: name, answer: answers[name] }));
    const file = { schema: study.schema, study: study.study, rater, answers: given };
    const link = element("a", { download: `study-${study.study}-${rater}.json` });
    link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1) + "\n"], { type: "application/json" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    find("saved").textContent = `Saved ${given.length} answers as ${link.download}.`;
  }

  find("who").addEventListener("submit", (event) => {
    event.preventDefault();
    rater = find("rater").value;
    const known = recall();
    answers = Object.fromEntries(order().filter(([name]) => name in known).map(([name]) => [name, known[name]]));
    place = order().findIndex(([name]) => !(name in answers));
    if (place < 0) end(); else show();
  });
  find("back").addEventListener("click", () => { if (place > 0) { place -= 1; show(); } });
  find("pause").addEventListener("click", end);
  find("again").addEventListener("click", () => { place = Math.min(place, order().length - 1); show(); });
  find("save").addEventListener("click", save);
  document.addEventListener("keydown", (event) => {
    if (find("ask").hidden || event.repeat || event.ctrlKey || event.altKey || event.metaKey || !/^[1-9]$/.test(event.key)) return;
    const buttons = find("stage").querySelectorAll("[data-answer]");
    if (event.key <= buttons.length) buttons[event.key - 1].click();
  });
  only("start");
})();
