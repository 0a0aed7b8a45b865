"use strict";
// Draws the figures of the page with Observable Plot. Colours are those of page.css, so they follow light and dark.
const Charts = (() => {
  const COLOURS = {
    kept: "--blue", dropped: "--orange", safe: "--blue", unsafe: "--orange", rows: "--blue",
    unlabelled: "--grey", unmarked: "--grey",
  };
  const PALETTE = ["--blue", "--orange", "--teal", "--purple", "--grey"];
  const HEIGHT = 240;

  const colour = (name, index) => `var(${COLOURS[name] ?? PALETTE[index % PALETTE.length]})`;

  function scale(names) {
    return { domain: names, range: names.map(colour), legend: names.length > 1 };
  }

  function frame(width, options) {
    const style = { background: "transparent", color: "inherit", fontFamily: "inherit", fontSize: "12px" };
    const plot = Plot.plot({ width, height: HEIGHT, marginLeft: 56, marginBottom: 40, style, ...options });
    // The figure has a label of its own; those of its groups are not permitted on <g>.
    for (const part of plot.querySelectorAll("g[aria-label]")) part.removeAttribute("aria-label");
    return plot;
  }

  function histogram(figure, width) {
    const marks = [
      Plot.rectY(figure.bins, {
        x1: "low", x2: "high", y: "rows", fill: "group", insetLeft: 0.5,
        title: (bin) => `${bin.rows} rows, ${bin.group}: score ${bin.low.toPrecision(3)} to ${bin.high.toPrecision(3)}`,
      }),
      Plot.ruleY([0]),
    ];
    const cut = figure.threshold;
    if (cut !== null && cut !== undefined) marks.push(Plot.ruleX([cut], { strokeDasharray: "5 4", strokeWidth: 1.5 }));
    return frame(width, {
      marks, color: scale(figure.groups), x: { label: "score (higher = keep) →" }, y: { label: "↑ rows", grid: true },
    });
  }

  function panel(figure, one, index, width) {
    const names = one.lines.map((line) => line.name);
    const marks = one.lines.flatMap((line, i) => {
      const stroke = colour(line.name, i), curve = line.style === "steps" ? "step-after" : "linear";
      const drawn = Plot.line(line.points, { x: "0", y: "1", stroke, curve, strokeWidth: 2 });
      if (line.style === "points") return [drawn, Plot.dot(line.points, { x: "0", y: "1", fill: stroke, r: 3 })];
      if (!line.average) return [drawn];
      const pale = Plot.line(line.points, { x: "0", y: "1", stroke, strokeWidth: 1, strokeOpacity: 0.35 });
      return [pale, Plot.line(line.average, { x: "0", y: "1", stroke, strokeWidth: 2 })];
    });
    if (figure.mark !== null && figure.mark !== undefined) marks.push(Plot.ruleX([figure.mark], { strokeDasharray: "5 4" }));
    const range = names.map((name, i) => colour(name, i));
    return frame(width, {
      marks, height: figure.even || index ? 150 : HEIGHT, color: { domain: names, range, legend: names.length > 1 },
      x: { label: index === figure.panels.length - 1 ? "step →" : null, domain: figure.range },
      y: { label: `↑ ${one.title}`, grid: true, nice: true, ticks: 5, tickFormat: "~g" },
    });
  }

  function curves(figure, width) {
    const all = document.createElement("div");
    figure.panels.forEach((one, index) => all.append(panel(figure, one, index, width)));
    return all;
  }

  function bars(figure, width) {
    return frame(width, {
      height: 70 + 26 * new Set(figure.bars.map((bar) => bar.name)).size,
      marginLeft: Math.min(190, width / 3),
      marks: [
        Plot.barX(figure.bars, { y: "name", x: "rows", fill: "group", title: (bar) => `${bar.rows} ${bar.group}` }),
        Plot.ruleX([0]),
      ],
      color: scale(figure.groups), x: { label: "rows →", grid: true }, y: { label: null, domain: figure.names },
    });
  }

  function square(figure, width) {
    const stroke = colour("", figure.colour);
    return frame(Math.min(width, 460), {
      height: 320,
      marks: [
        Plot.line(figure.chance, { x: "0", y: "1", stroke: "var(--grey)", strokeDasharray: "2 4" }),
        Plot.line(figure.points, { x: "0", y: "1", stroke, strokeWidth: 2 }),
      ],
      x: { label: `${figure.x} →`, domain: [0, 1], grid: true }, y: { label: `↑ ${figure.y}`, domain: [0, 1], grid: true },
    });
  }

  function intervals(figure, width) {
    const names = figure.models, row = { fy: "name", y: "model" };
    const title = (dot) => `${dot.model}, ${dot.name}: ${dot.shown}`;
    return frame(width, {
      height: 60 + figure.names.length * (14 + 13 * names.length),
      marginLeft: Math.min(230, width / 2.6),
      marks: [
        Plot.ruleY(figure.dots, { ...row, x1: "low", x2: "high", stroke: "model", strokeWidth: 1.5 }),
        Plot.dot(figure.dots, { ...row, x: "value", fill: "model", r: 4.5, title }),
        Plot.axisFy({ anchor: "left", label: null, fontSize: 12 }),
      ],
      color: scale(names), y: { axis: null, domain: names }, fy: { domain: figure.names, label: null },
      x: { label: `${figure.x} →`, grid: true, percent: figure.percent, domain: figure.domain },
    });
  }

  function points(figure, width) {
    const at = { x: "x", y: "y" };
    return frame(width, {
      height: 320,
      marks: [
        Plot.link(figure.points, { x1: "x_low", x2: "x_high", y1: "y", y2: "y", stroke: "model" }),
        Plot.link(figure.points, { x1: "x", x2: "x", y1: "y_low", y2: "y_high", stroke: "model" }),
        Plot.dot(figure.points, {
          ...at, fill: "model", r: 6, symbol: (point) => (point.start ? "diamond" : "circle"), title: "model",
        }),
      ],
      symbol: { type: "identity" }, color: scale(figure.points.map((point) => point.model)),
      x: { label: `${figure.x} →`, nice: true, grid: true }, y: { label: `↑ ${figure.y}`, nice: true, grid: true },
    });
  }

  function dots(figure, width) {
    return frame(width, {
      marks: [Plot.dot(figure.dots, { x: "x", y: "y", fill: "group", r: 2.5, fillOpacity: 0.7 })],
      color: scale(figure.groups),
      x: { label: "characters of the answer →", type: "log", grid: true, tickFormat: "~s" }, y: { label: "↑ score", grid: true, nice: true },
    });
  }

  // How the score of one row is made up: each part starts where the one before it ends.
  function waterfall(parts, width) {
    let total = 0;
    const bars = parts.map(([name, value]) => ({ name, from: total, value, to: (total += value) }));
    bars.push({ name: "score", from: 0, value: total, to: total });
    const fill = (bar) => (bar.name === "score" ? "var(--grey)" : bar.value < 0 ? "var(--orange)" : "var(--blue)");
    return frame(width, {
      height: 40 + 28 * bars.length, marginLeft: 110, marginRight: 50,
      marks: [
        Plot.barX(bars, { y: "name", x1: "from", x2: "to", fill }),
        Plot.text(bars, { y: "name", x: (bar) => Math.max(bar.from, bar.to), text: (bar) => bar.value.toFixed(2), textAnchor: "start", dx: 5 }),
        Plot.ruleX([0]),
      ],
      x: { label: null }, y: { label: null, domain: bars.map((bar) => bar.name) },
    });
  }

  // Rows that are alike to the ranker lie near each other.
  function map(places, groups, width) {
    return frame(width, {
      height: 420,
      marks: [
        Plot.dot(places, { x: "x", y: "y", fill: "group", r: 2.5, fillOpacity: 0.75 }),
        Plot.dot(places, Plot.pointer({ x: "x", y: "y", stroke: "currentColor", r: 6 })),
        Plot.tip(places, Plot.pointer({ x: "x", y: "y", title: "title", maxRadius: 20 })),
      ],
      color: groups ? scale(groups) : { scheme: "RdYlBu", legend: true, label: "score" },
      x: { label: null, ticks: [] }, y: { label: null, ticks: [] },
    });
  }

  const KINDS = { histogram, curves, bars, square, intervals, points, dots };

  function draw(target, figure) {
    const width = target.clientWidth;
    if (width) target.replaceChildren(KINDS[figure.kind](figure, width));
  }

  // Draws a figure now, and again whenever its place changes its width.
  function keep(target, figure) {
    let width = 0;
    new ResizeObserver(() => {
      if (target.clientWidth !== width) draw(target, figure);
      width = target.clientWidth;
    }).observe(target);
  }

  return { keep, draw, waterfall, map };
})();
