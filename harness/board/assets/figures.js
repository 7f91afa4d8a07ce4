// Each chart as a function from data and options to Plotly's traces and layout.
"use strict";
(() => {
  const { figures, hidden, look, axis, css, isNarrow, names } = timetrial.charts;
  const escaped = text => String(text).replace(/[&<>]/g, sign => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);
  const unit = document.documentElement.dataset.unit, charged = unit === "seconds" ? "charged seconds" : unit;
  const share = value => `${(100 * value).toFixed(0)} %`;
  const shown = all => names().filter(name => name in all && !hidden.has(name));

  const nothing = text => ({ traces: [], layout: { xaxis: { visible: false }, yaxis: { visible: false },
    annotations: [{ text, showarrow: false, font: { size: 14 } }] } });

  // ---- performance profiles -------------------------------------------------------------------------------------
  const within = (ratios, tau) => ratios.filter(ratio => ratio !== null && ratio <= tau + 1e-9).length;

  function tauOf(slider, options, profile) {
    const part = slider.value / slider.max;
    return options.axis === "log" ? profile.tau_max ** part : 1 + part * (profile.tau_max - 1);
  }

  function tauLine(tau) {
    return { type: "line", x0: tau, x1: tau, y0: 0, y1: 1, yref: "paper", line: { color: css("--accent"), width: 1.5, dash: "dot" } };
  }

  function showTau(element, options, profile) {
    const slider = document.getElementById("tau"), tau = tauOf(slider, options, profile);
    document.getElementById("tau-value").value = `${tau.toFixed(2)} ×`;
    Plotly.relayout(element, { shapes: [tauLine(tau)] });
    const count = profile.workloads.length;
    const rows = shown(profile.ratios).map(name => [name, within(profile.ratios[name], tau)]).sort((a, b) => b[1] - a[1]);
    document.getElementById("within").replaceChildren(...rows.map(([name, hits]) => {
      const item = document.createElement("li"), first = document.createElement("span"), second = document.createElement("span");
      first.textContent = name; second.textContent = `${hits} of ${count}, ${share(hits / count)}`;
      item.append(first, second);
      return item;
    }));
  }

  figures.profile = {
    prepare(element, profile) {
      const slider = document.getElementById("tau");
      slider.value = slider.max * (2 - 1) / (profile.tau_max - 1);
      slider.addEventListener("input", () => {
        const pressed = element.closest("figure").querySelector("[data-option='axis'] [aria-pressed='true']").value;
        showTau(element, { axis: pressed }, profile);
      });
    },
    draw(element, options, profile) {
      const count = profile.workloads.length;
      const all = shown(profile.ratios);
      const traces = all.map((name, place) => {
        const ratios = profile.ratios[name].filter(ratio => ratio !== null && ratio <= profile.tau_max).sort((a, b) => a - b);
        const x = [1], y = [within(ratios, 1) / count];
        for (const ratio of ratios) if (ratio > 1) { x.push(ratio); y.push(within(ratios, ratio) / count); }
        x.push(profile.tau_max); y.push(ratios.length / count);
        const { color, dash } = look(name);
        // Lines that coincide lie side by side; hovering tells the true share.
        const aside = Math.min(0.004, 0.035 / all.length) * ((all.length - 1) / 2 - place);
        return { x, y: y.map(value => value + aside), customdata: y, name: escaped(name), mode: "lines", line: { shape: "hv", color, dash, width: 2.2 },
          hovertemplate: `<b>${escaped(name)}</b><br>within %{x:.2f} × on %{customdata:.1%}<extra></extra>` };
      });
      const scale = options.axis === "log"
        ? { type: "log", range: [0, Math.log10(profile.tau_max)], tickvals: [1, 1.25, 1.5, 2, 2.5, 3, 4, 6, 8, 10, 16], ticksuffix: " ×" }
        : { range: [1, profile.tau_max], ticksuffix: " ×" };
      return { traces, layout: { xaxis: axis("τ: time over the fastest time", scale), yaxis: axis("share of workloads", { range: [-0.035, 1.035], tickformat: ".0%" }) } };
    },
    after: showTau,
  };

  // ---- speed and reliability ------------------------------------------------------------------------------------
  // Labels go where they hide no other label or point; a label without room is left to hovering.
  function placed(points, width, height) {
    const boxes = points.map(({ px, py }) => [px - 6, py - 6, px + 6, py + 6]);
    const clear = box => box[0] > 0 && box[2] < width && boxes.every(b => box[2] < b[0] || b[2] < box[0] || box[3] < b[1] || b[3] < box[1]);
    return points.map(({ px, py, name }) => {
      const w = 7 * name.length, spots = { "middle right": [px + 8, py - 7, px + 8 + w, py + 7], "middle left": [px - 8 - w, py - 7, px - 8, py + 7],
        "top center": [px - w / 2, py - 22, px + w / 2, py - 7], "bottom center": [px - w / 2, py + 7, px + w / 2, py + 22] };
      const spot = Object.keys(spots).find(each => clear(spots[each]));
      if (spot) boxes.push(spots[spot]);
      return spot;
    });
  }

  figures.speed = {
    draw(element, options, data) {
      const all = data.submissions.map((name, i) => ({ name, speed: data.speed[i], reliability: data.reliability[i] }))
        .filter(({ name, speed }) => speed !== null && !hidden.has(name));
      const low = Math.max(0, Math.min(...all.map(each => each.speed)) - 0.08);
      const width = element.clientWidth - 90, height = element.dataset.height - 70;
      all.forEach(each => { each.px = width * (each.speed - low) / (1.04 - low); each.py = height * (1.08 - each.reliability) / 1.13; });
      const spots = placed(all, width, height);
      const traces = all.map((each, i) => ({ x: [each.speed], y: [each.reliability], mode: spots[i] ? "markers+text" : "markers", text: [escaped(each.name)],
        textposition: spots[i], textfont: { color: css("--ink"), size: isNarrow() ? 10.5 : 12 }, cliponaxis: false,
        marker: { size: 11, color: look(each.name).color, symbol: look(each.name).symbol },
        hovertemplate: `<b>${escaped(each.name)}</b><br>speed %{x:.2f}, reliability %{y:.0%}<extra></extra>` }));
      return { traces, layout: { xaxis: axis("speed", { range: [low, 1.04] }), yaxis: axis("reliability", { range: [-0.05, 1.08], tickformat: ".0%" }) } };
    },
  };

  // ---- validation curves ----------------------------------------------------------------------------------------
  function curveRange(curves, data) {
    const values = curves.flatMap(curve => curve.validation).filter(value => value !== null).sort((a, b) => a - b);
    if (!values.length) return undefined;
    // The first evaluations of an untrained model would press the rest into a line.
    const far = data.goal === "min" ? values[Math.floor(0.9 * (values.length - 1))] : values[Math.ceil(0.1 * (values.length - 1))];
    const near = data.goal === "min" ? Math.min(values[0], data.target) : Math.max(values.at(-1), data.target);
    const [low, high] = [Math.min(far, near), Math.max(far, near)], room = 0.06 * (high - low || Math.abs(high) || 1);
    return [low - room, high + room];
  }

  figures.curves = {
    draw(element, options, data) {
      const curves = data.curves.filter(curve => !hidden.has(curve.submission) && (options.curves === "all" || curve.is_median));
      const by = options.against;
      const traces = [...curves].sort((a, b) => a.is_median - b.is_median).map(curve => {
        const { color, dash } = look(curve.submission);
        return { x: curve[by], y: curve.validation, name: escaped(curve.submission), mode: "lines", opacity: curve.is_median ? 1 : 0.35,
          line: { color, dash, width: curve.is_median ? 2.2 : 1.2 },
          hovertemplate: `<b>${escaped(curve.submission)}</b> study ${curve.study}, trial ${curve.trial} (${curve.status.replaceAll("_", " ")})<br>%{y:.5~g} after %{x:,.5~r} ${by === "seconds" ? unit : "steps"}<extra></extra>` };
      });
      const shapes = [{ type: "line", x0: 0, x1: 1, xref: "paper", y0: data.target, y1: data.target, line: { color: css("--ink"), width: 1.2, dash: "dash" } }];
      const note = { x: 1, xref: "paper", xanchor: "right", y: data.target, yanchor: data.goal === "min" ? "top" : "bottom", text: `target ${data.target}`, showarrow: false, bgcolor: css("--paper"), opacity: 0.85, font: { color: css("--ink"), size: 12 } };
      const scale = options.axis === "log" ? { type: "log" } : { rangemode: "tozero" };
      return { traces, layout: { shapes, annotations: [note], xaxis: axis(by === "seconds" ? charged : "steps", scale),
        yaxis: axis(`validation ${data.metric}`, { range: curveRange(curves, data) }) } };
    },
  };

  // ---- tuning curves --------------------------------------------------------------------------------------------
  figures.tuning = {
    draw(element, options, data) {
      if (Object.values(data).every(curve => curve.k.length < 2)) return nothing("One trial only: nothing was tuned.");
      const isShare = options.tuning === "share_reached";
      const traces = shown(data).map(name => ({ x: data[name].k, y: data[name][options.tuning], name: escaped(name), mode: "lines+markers",
        line: { color: look(name).color, dash: look(name).dash, width: 2 }, marker: { size: 4 },
        hovertemplate: `<b>${escaped(name)}</b><br>best of %{x}: %{y:${isShare ? ".0%" : ",.4~r"}}${isShare ? "" : ` ${unit}`}<extra></extra>` }));
      return { traces, layout: { xaxis: axis("trials k", { rangemode: "tozero" }), yaxis: isShare
        ? axis("probability of reaching the target", { range: [-0.03, 1.05], tickformat: ".0%" }) : axis(`expected ${unit}`) } };
    },
  };

  // ---- hyperparameters ------------------------------------------------------------------------------------------
  const select = (element, name) => element.closest("figure").querySelector(`select[data-option='${name}']`);
  const fill = (list, values) => list.replaceChildren(...values.map(value => new Option(value, value)));
  let groups = {};

  figures.settings = {
    prepare(element, data) {
      groups = data;
      const known = names().filter(name => name in data);
      fill(select(element, "group"), known.length ? known : Object.keys(data).sort());
      // Where every trial has missed there is little to see: start with a group that has reached its target.
      const list = select(element, "group"), telling = [...list.options].find(({ value }) => data[value].seconds.some(each => each !== null));
      if (telling) list.value = telling.value;
      this.changed(element, select(element, "group"));
    },
    changed(element, list) {
      if (list.dataset.option === "group") fill(select(element, "hyperparameter"), Object.keys(groups[list.value].values));
    },
    draw(element, options, data) {
      const group = data[select(element, "group").value], name = select(element, "hyperparameter").value;
      const values = group.values[name];
      if (!values) {
        return nothing("One setting only: no hyperparameter was varied.");
      }
      const slowest = Math.max(...group.seconds.filter(value => value !== null), 0);
      const top = 1.06 * (group.budget ?? (slowest || 1));
      const part = (wanted, marker) => {
        const rows = values.map((_, i) => i).filter(i => (group.seconds[i] !== null) === wanted);
        return { x: rows.map(i => values[i]), y: rows.map(i => group.seconds[i] ?? top), text: rows.map(i => group.status[i].replaceAll("_", " ")), mode: "markers", type: values.length > 1000 ? "scattergl" : "scatter", marker,
          hovertemplate: `${escaped(name)} %{x}<br>%{text}${wanted ? ` at %{y:,.5~r} ${unit}` : ""}<extra></extra>` };
      };
      const numeric = values.every(value => typeof value === "number" || value === null), positive = values.filter(value => value !== null);
      const isLog = numeric && Math.min(...positive) > 0 && Math.max(...positive) / Math.min(...positive) > 20;
      return { traces: [part(true, { size: 8, color: css("--accent"), opacity: 0.75 }), part(false, { size: 7, color: css("--bad"), symbol: "x-thin", line: { color: css("--bad"), width: 1.4 } })],
        layout: { xaxis: axis(name + (group.left_out ? ` (a sample; ${group.left_out.toLocaleString("en")} trials not drawn)` : ""), numeric ? { type: isLog ? "log" : "linear" } : { type: "category" }),
          yaxis: axis(`${unit} to target`, { range: [0, 1.05 * top] }),
          shapes: [{ type: "line", x0: 0, x1: 1, xref: "paper", y0: top, y1: top, layer: "below", line: { color: css("--line"), width: 1 } }],
          annotations: [{ x: 0, xref: "paper", xanchor: "left", y: top, yanchor: "bottom", text: "missed", showarrow: false }] } };
    },
  };

  // ---- what solutions look like -----------------------------------------------------------------------------------
  figures.solutions = {
    prepare(element, data) {
      const telling = data.titles.filter((_, i) => new Set(data.points.map(point => point.values[i])).size > 1);
      const wanted = (...titles) => [...titles, ...telling, ...data.titles].find(title => telling.includes(title)) ?? data.titles[0];
      for (const [option, first] of [["x", wanted("sharpness", "norm of the change")], ["y", wanted("stable rank of the change", "training loss")]]) {
        fill(select(element, option), data.titles);
        select(element, option).value = first;
      }
    },
    draw(element, options, data) {
      const [x, y] = ["x", "y"].map(option => data.titles.indexOf(select(element, option).value));
      const told = data.points.filter(point => point.values[x] !== null && point.values[y] !== null);
      if (!told.length) return nothing("No trial has both readouts.");
      const line = (i, title) => {
        const values = told.map(point => point.values[i]), isLog = Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 20;
        return axis(title, { type: isLog ? "log" : "linear" });
      };
      const traces = names().filter(name => told.some(point => point.submission === name)).map(name => {
        const mine = told.filter(point => point.submission === name), { color, symbol } = look(name);
        return { name: escaped(name), mode: "markers", type: "scatter", x: mine.map(point => point.values[x]), y: mine.map(point => point.values[y]),
          text: mine.map(point => `${point.weights} weights, trial ${point.trial}`),
          marker: { color, size: 11, symbol: mine.map(point => symbol + (point.weights === "initial" ? "-open" : "")) },
          hovertemplate: `${escaped(data.titles[x])} %{x:.4~r}<br>${escaped(data.titles[y])} %{y:.4~r}<br>%{text}<extra>${escaped(name)}</extra>` };
      });
      return { traces, layout: { xaxis: line(x, data.titles[x]), yaxis: line(y, data.titles[y]), showlegend: true,
        legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, margin: { l: 56, r: 14, t: 40, b: 48 } } };
    },
  };

  // ---- how trials ended -----------------------------------------------------------------------------------------
  figures.endings = {
    draw(element, options, data) {
      const colors = { reached: "--accent", out_of_budget: "--calm", finished: "--c5", diverged: "--warn", crashed: "--bad", refused: "--c3", pruned: "--line" };
      const rows = [...data.workloads.keys()].reverse();
      const traces = Object.keys(colors).filter(status => status in data.counts).map(status => ({ type: "bar", orientation: "h", name: status.replaceAll("_", " "),
        x: rows.map(i => data.counts[status][i]), y: rows.map(i => escaped(data.workloads[i])), marker: { color: css(colors[status]) },
        hovertemplate: `%{x} ${status.replaceAll("_", " ")}<extra>%{y}</extra>` }));
      return { traces, layout: { height: Number(element.dataset.height), barmode: "stack", showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" },
        margin: { l: 20, r: 14, t: 30, b: 44 }, xaxis: axis("trials"), yaxis: axis("", { ticks: "" }) } };
    },
  };
})();
