/* Filters and search on the page of reported figures; a source without a line left is not shown.
   In the address: search, attack, defense, private_dataset, target_arch. */
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector("[data-reported]");
  if (!form) return;
  const fields = [...form.elements].filter((field) => field.name);
  const lines = [...document.querySelectorAll("[data-source] tbody tr")];
  const texts = new Map(lines.map((line) => [line, line.textContent.toLowerCase()]));

  function show() {
    for (const field of fields) field.value = mibench.params.get(field.name) ?? "";
    const words = form.elements.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = fields.filter((field) => field.name !== "search" && field.value);
    for (const line of lines) {
      const section = line.closest("[data-source]");
      const text = `${texts.get(line)} ${section.querySelector("h2").textContent.toLowerCase()}`;
      line.hidden = !(words.every((word) => text.includes(word)) && chosen.every((field) => line.dataset[field.name] === field.value));
    }
    for (const section of document.querySelectorAll("[data-source]")) {
      section.hidden = !section.querySelector("tbody tr:not([hidden])");
    }
    form.querySelector("[data-count]").textContent = `${lines.filter((line) => !line.hidden).length} of ${lines.length} figures`;
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    const { name, value } = event.target;
    mibench.write((params) => (value ? params.set(name, value) : params.delete(name)));
    show();
  });
  mibench.listen((what) => what === "state" && show());
  show();
});
