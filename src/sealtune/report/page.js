"use strict";
// Draws every figure in the colours of the page, and redraws it when the colour scheme changes.
(() => {
  const figures = JSON.parse(document.getElementById("figure-data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function themed(layout) {
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, ticks: "" };
    const result = {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: colour("--muted") },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      dragmode: false,
    };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis/.test(key)) result[key] = { ...axis, ...layout[key], fixedrange: true };
    }
    return result;
  }

  function draw() {
    for (const [name, figure] of Object.entries(figures)) {
      const target = document.getElementById("figure-" + name);
      Plotly.react(target, figure.data, themed(figure.layout), { displayModeBar: false });
    }
  }

  draw();
  const fit = new ResizeObserver((entries) => entries.forEach((entry) => Plotly.Plots.resize(entry.target)));
  for (const name of Object.keys(figures)) fit.observe(document.getElementById("figure-" + name));
  dark.addEventListener("change", draw);
})();
