// How charts share state: which submissions are shown, which options are pressed, light or dark. Draws through figures.js.
"use strict";
timetrial.charts = (() => {
  const hidden = new Set(), drawn = new Map(), figures = {};
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash"], strokes = ["", "6 3", "2 3", "6 3 2 3", "10 4"];
  const symbols = ["circle", "diamond", "square", "triangle-up", "cross"];
  const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const SHOWN_AT_FIRST = 14;   // more lines than this tell nobody anything
  const names = () => timetrial.data.names.submissions;
  const isNarrow = () => innerWidth < 720;

  // A submission looks the same in every chart of a board.
  function look(submission) {
    const place = names().indexOf(submission), turn = Math.floor(place / 7) % dashes.length;
    return { color: css(`--c${place % 7}`), dash: dashes[turn], symbol: symbols[turn] };
  }

  function axis(title, more = {}) {
    return { title: { text: title, standoff: 8 }, gridcolor: css("--grid"), linecolor: css("--line"), zeroline: false,
      automargin: true, ticks: "outside", tickcolor: css("--line"), ...more };
  }

  function layout(element, more) {
    return { height: isNarrow() ? Math.min(element.dataset.height, 360) : Number(element.dataset.height),
      margin: { l: 56, r: 14, t: 10, b: 48 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: css("--sans"), size: 12.5, color: css("--quiet") }, showlegend: false, hovermode: "closest",
      hoverlabel: { bgcolor: css("--paper"), bordercolor: css("--line"), font: { color: css("--ink"), family: css("--sans"), size: 12.5 }, namelength: -1 },
      dragmode: isNarrow() ? false : "zoom", ...more };
  }

  function options(element) {
    const found = {}, figure = element.closest("figure");
    figure.querySelectorAll("fieldset[data-option]").forEach(field => {
      found[field.dataset.option] = field.querySelector("[aria-pressed='true']").value;
    });
    figure.querySelectorAll("select[data-option]").forEach(select => { found[select.dataset.option] = select.value; });
    return found;
  }

  async function draw(element) {
    const pieces = await Promise.all(element.dataset.sources.split(" ").map(timetrial.load));
    const figure = figures[element.dataset.chart];
    if (figure.prepare && !drawn.has(element)) figure.prepare(element, ...pieces);
    const { traces, layout: more } = figure.draw(element, options(element), ...pieces);
    element.querySelector(".waiting")?.remove();
    element.style.minHeight = "";
    await Plotly.react(element, traces, layout(element, more), { displayModeBar: false, responsive: true });
    drawn.set(element, true);
    element.dataset.drawn = "yes";
    if (figure.after) figure.after(element, options(element), ...pieces);
    performance.mark("chart drawn");
  }

  function redraw(within = document) {
    [...drawn.keys()].filter(element => within.contains(element)).forEach(draw);
  }

  function chips(container) {
    const button = (text, press) => {
      const made = document.createElement("button");
      made.type = "button"; made.append(text); made.addEventListener("click", press);
      container.append(made);
      return made;
    };
    for (const name of names()) {
      const made = button("", () => { hidden.has(name) ? hidden.delete(name) : hidden.add(name); update(); });
      const turn = Math.floor(names().indexOf(name) / 7) % strokes.length;
      made.innerHTML = `<svg viewBox="0 0 22 8" aria-hidden="true"><line x1="0" x2="22" y1="4" y2="4" stroke="var(--c${names().indexOf(name) % 7})" stroke-width="2.5" stroke-dasharray="${strokes[turn]}"/></svg>`;
      made.append(name);
      made.dataset.submission = name;
    }
    if (names().length > 2) {
      button("all", () => { hidden.clear(); update(); }).className = "every";
      button("none", () => { names().forEach(name => hidden.add(name)); update(); }).className = "every";
    }
    const update = () => { press(); redraw(); };
    const press = () => document.querySelectorAll(".chips [data-submission]").forEach(each => each.setAttribute("aria-pressed", String(!hidden.has(each.dataset.submission))));
    press();
  }

  function start() {
    names().slice(SHOWN_AT_FIRST).forEach(name => hidden.add(name));
    document.querySelectorAll(".chips").forEach(chips);
    document.querySelectorAll("fieldset[data-option]").forEach(field => field.addEventListener("click", event => {
      const button = event.target.closest("button");
      if (!button) return;
      field.querySelectorAll("button").forEach(each => each.setAttribute("aria-pressed", String(each === button)));
      const table = field.closest("section")?.querySelector(`[data-${field.dataset.option}]`);
      if (table) table.dataset[field.dataset.option] = button.value; else redraw(field.closest("figure"));
    }));
    document.querySelectorAll("select[data-option]").forEach(select => select.addEventListener("change", () => {
      const element = select.closest("figure").querySelector(".chart");
      const figure = figures[element.dataset.chart];
      if (figure.changed) figure.changed(element, select);
      draw(element);
    }));
    const seen = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(entry => {
      seen.unobserve(entry.target); draw(entry.target);
    }), { rootMargin: "400px" });
    // The first chart is drawn at once, the others when they come near the window.
    document.querySelectorAll(".chart").forEach((element, place) => { if (place) seen.observe(element); else draw(element); });
    addEventListener("theme", () => redraw());
  }

  addEventListener("DOMContentLoaded", start);
  return { figures, hidden, look, axis, css, isNarrow, names };
})();
