"use strict";
// Brings the page to life: figures, the threshold slider, and the browser of rows.
(async () => {
  const { element, number, line, unpack } = Text;
  const part = (id) => document.getElementById(id);

  const figures = JSON.parse(part("figure-data").textContent);
  for (const [name, figure] of Object.entries(figures)) Charts.keep(part("figure-" + name), figure);
  if (!part("row-data")) return;

  const rows = new Rows(await unpack("row-data"));
  let browser = null;
  const decisions = new Decisions(JSON.parse(part("decisions-data").textContent), () => {
    part("decision-count").textContent = `${decisions.size.toLocaleString("en")} decisions`;
    part("save-decisions").disabled = !decisions.size;
    browser.paint();
    if (browser.open !== null) Detail.show(rows, browser.open, decisions);
  });
  browser = new Browser(rows, decisions);
  decisions.changed();

  part("save-decisions").addEventListener("click", async () => {
    const done = await decisions.save().catch(() => "not saved: sealtune no longer serves this page");
    part("decision-count").textContent = `${decisions.size.toLocaleString("en")} decisions, ${done}`;
  });
  part("undo-decisions").addEventListener("click", () => decisions.undo());
  part("person").addEventListener("input", (event) => (decisions.person = event.target.value.trim()));
  part("load-decisions").addEventListener("change", async (event) => {
    try {
      decisions.read(await event.target.files[0].text());
    } catch (error) {
      part("decision-count").textContent = `This is not a file of decisions: ${line(String(error.message), 90)}`;
    }
  });

  if (location.protocol !== "file:") decisions.read(await (await fetch("decisions.jsonl")).text());

  slider(rows);
  if (rows.map) map(rows, browser, decisions);
  document.documentElement.dataset.ready = "";

  function slider({ cuts, threshold, total, folder }) {
    const input = part("threshold"), figure = figures.histogram;
    if (!input || cuts.score.length < 2) return;
    input.max = cuts.score.length - 1;
    const now = threshold ?? cuts.score[0];
    input.value = cuts.score.reduce((best, score, i) => (Math.abs(score - now) < Math.abs(cuts.score[best] - now) ? i : best), 0);
    const show = (redraw) => {
      const i = Number(input.value), kept = cuts.kept[i], dropped = total - kept;
      const share = ((100 * dropped) / total).toFixed(1);
      const labelled = cuts.unsafe.length ? `; ${cuts.unsafe[i]} of the ${cuts.unsafe_rows} rows labelled unsafe among them` : "";
      const said = `${dropped.toLocaleString("en")} rows dropped (${share}%), ${kept.toLocaleString("en")} kept${labelled}`;
      part("threshold-said").textContent = `Threshold ${number(cuts.score[i])}: ${said}.`;
      input.setAttribute("aria-valuetext", `${number(cuts.score[i])}, ${said}`);
      part("threshold-command").textContent = `sealtune select --out ${line(folder, 200)} select.threshold=${cuts.score[i]}`;
      if (redraw) Charts.draw(part("figure-histogram"), { ...figure, threshold: cuts.score[i] });
      figure.threshold = cuts.score[i];
    };
    input.addEventListener("input", () => show(true));
    show(false);
    part("threshold-box").hidden = false;
  }

  function map({ map: places }, shown, made) {
    const target = part("figure-map"), choice = part("map-colour");
    const named = {
      score: null,
      source: (row) => line(rows.sourceOf(row), 28),
      state: (row) => rows.stateOf(row),
      label: (row) => rows.labelOf(row) ?? "unlabelled",
      decision: (row) => made.of(rows.id(row)) ?? "unmarked",
    };
    if (!rows.label) choice.querySelector("[value=label]").remove();
    const draw = () => {
      const group = named[choice.value];
      const all = places.rows.map((row, i) => ({
        row, x: places.x[i], y: places.y[i], group: group ? group(row) : rows.score[row],
        title: `score ${number(rows.score[row])}\n${line(rows.preview(row), 140)}`,
      })).filter((place) => place.x !== null);
      const counts = new Map();
      for (const place of all) counts.set(place.group, (counts.get(place.group) ?? 0) + 1);
      const largest = [...counts].sort((a, b) => b[1] - a[1]).map(([name]) => name);
      const groups = !group ? null : largest.length <= 5 ? largest : [...largest.slice(0, 4), "other"];
      if (groups) for (const place of all) if (!groups.includes(place.group)) place.group = "other";
      const plot = Charts.map(all, groups, target.clientWidth);
      plot.addEventListener("click", () => plot.value && shown.showRow(plot.value.row));
      target.replaceChildren(plot);
    };
    choice.addEventListener("input", draw);
    new IntersectionObserver((seen) => seen[0].isIntersecting && target.childElementCount === 0 && draw()).observe(target);
    new ResizeObserver(() => target.childElementCount && draw()).observe(target);
  }
})();
