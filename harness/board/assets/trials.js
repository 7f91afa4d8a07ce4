// The trial table: loads its chunks one after the other, filters, sorts and pages them. Only one page is in the document.
"use strict";
addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("filters"), body = document.querySelector("#trials tbody"), count = document.getElementById("count");
  const shownColumns = [...document.querySelectorAll("[data-sort]")].map(button => button.dataset.sort);
  const numeric = new Set(["study", "trial", "time_to_target", "steps_to_target", "best_validation", "charged_seconds", "reference_drift"]);
  const PAGE = 50, chunks = [], total = Number(form.dataset.chunks);
  let rows = [], page = 0, sort = { key: null, up: true };

  // A row is a chunk and a place in it: no object per row, so a hundred thousand of them are light.
  const value = ([chunk, i], key) => {
    const found = chunk.columns[key][i];
    return key in chunk.words ? chunk.words[key][found] : found;
  };

  function matching() {
    const wanted = Object.fromEntries(new FormData(form)), text = wanted.text.trim().toLowerCase(), found = [];
    for (const chunk of chunks) {
      const exact = ["workload", "submission", "status"].filter(key => wanted[key]).map(key => [chunk.columns[key], chunk.words[key].indexOf(wanted[key])]);
      const hits = text && ["workload", "submission", "status", "reason", "hyperparameters"].map(key => [chunk.columns[key], new Set(chunk.words[key].flatMap((word, n) => word.toLowerCase().includes(text) ? [n] : []))]);
      for (let i = 0; i < chunk.rows; i++) {
        if (!exact.every(([column, code]) => column[i] === code)) continue;
        if (text && !hits.some(([column, words]) => words.has(column[i])) && !chunk.columns.trial_id[i].includes(text)) continue;
        found.push([chunk, i]);
      }
    }
    return found;
  }

  function sorted(found) {
    if (!sort.key) return found;
    const sign = sort.up ? 1 : -1, keys = found.map(row => value(row, sort.key));
    const order = [...found.keys()].sort((a, b) => {
      const [one, two] = [keys[a], keys[b]];
      if (one === null || two === null) return (one === null) - (two === null);   // what has no value comes last
      return sign * (one < two ? -1 : one > two ? 1 : a - b);
    });
    return order.map(i => found[i]);
  }

  function cell(row, key) {
    const made = document.createElement("td"), found = value(row, key);
    if (numeric.has(key)) made.className = "n";
    made.textContent = found === null ? "–" : typeof found === "number" ? found.toLocaleString("en", { maximumSignificantDigits: 6 }) : key === "status" ? found.replaceAll("_", " ") : found;
    if (key !== "trial") return made;
    const open = document.createElement("button");
    open.type = "button"; open.className = "open"; open.textContent = made.textContent;
    open.setAttribute("aria-expanded", "false"); open.setAttribute("aria-label", `Trial ${made.textContent}: hyperparameters`);
    open.addEventListener("click", () => {
      const last = made.parentElement.lastElementChild, there = last.querySelector(".settings");
      open.setAttribute("aria-expanded", String(!there));
      if (there) return there.remove();
      const settings = document.createElement("code");
      settings.className = "settings"; settings.textContent = `${value(row, "trial_id")} ${value(row, "hyperparameters")}`;
      last.append(settings);
    });
    made.replaceChildren(open);
    return made;
  }

  function show() {
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    page = Math.min(page, pages - 1);
    body.replaceChildren(...rows.slice(page * PAGE, (page + 1) * PAGE).map(row => {
      const made = document.createElement("tr");
      made.append(...shownColumns.map(key => cell(row, key)));
      return made;
    }));
    const all = chunks.reduce((sum, chunk) => sum + chunk.rows, 0), rest = chunks.length < total ? " so far; loading the rest …" : "";
    count.textContent = `${rows.length.toLocaleString("en")} of ${all.toLocaleString("en")} trials${rest}`;
    document.getElementById("place").textContent = `page ${page + 1} of ${pages.toLocaleString("en")}`;
    document.getElementById("previous").disabled = page === 0;
    document.getElementById("next").disabled = page === pages - 1;
  }

  function update() { rows = sorted(matching()); show(); }
  function changed() { page = 0; update(); }

  function save() {
    const keys = [...shownColumns, "hyperparameters", "trial_id"], quoted = found => `"${String(found ?? "").replaceAll('"', '""')}"`;
    const lines = [keys.join(","), ...rows.map(row => keys.map(key => quoted(value(row, key))).join(","))];
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = "trials.csv"; link.click();
    URL.revokeObjectURL(link.href);
  }

  form.addEventListener("input", changed);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(changed));
  document.getElementById("previous").addEventListener("click", () => { page--; show(); });
  document.getElementById("next").addEventListener("click", () => { page++; show(); });
  document.getElementById("save").addEventListener("click", save);
  document.querySelectorAll("[data-sort]").forEach(button => button.addEventListener("click", () => {
    sort = { key: button.dataset.sort, up: sort.key === button.dataset.sort ? !sort.up : true };
    document.querySelectorAll("[data-sort]").forEach(each => each.parentElement.setAttribute("aria-sort", each === button ? (sort.up ? "ascending" : "descending") : "none"));
    changed();
  }));
  for (const [key, wanted] of new URLSearchParams(location.hash.slice(1))) if (form.elements[key]) form.elements[key].value = wanted;

  (async () => {
    for (let number = 0; number < total; number++) {
      chunks.push(await timetrial.load(`trials/${number}`));
      update();
    }
  })();
});
