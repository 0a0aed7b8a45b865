"use strict";
// The pane of one row: what it says, why it has this score, and what people decide about it.
const Detail = (() => {
  const { element, reveal, number } = Text;

  function show(rows, row, decisions) {
    const pane = document.getElementById("row-detail");
    pane.hidden = false;
    const texts = rows.textsOf(row);
    const parts = row < rows.ranked ? Object.entries(rows.parts).map(([name, values]) => [name, values[row]]) : [];
    pane.replaceChildren(
      element("h3", {}, title(rows, row)),
      facts(rows, row),
      buttons(rows.id(row), decisions),
      ...(parts.length && parts.every(([, value]) => value !== null) ? [why(parts, pane.clientWidth - 40)] : []),
      ...(texts ? [part("Prompt", texts[0]), part("Response", texts[1])] : [element("p", { class: "caption" }, absent(rows, row))]),
      ...alike(rows, row),
    );
  }

  function title(rows, row) {
    if (row >= rows.ranked) return "This row could not be used";
    return `Rank ${rows.rank[row].toLocaleString("en")} of ${rows.total.toLocaleString("en")}`;
  }

  function absent(rows, row) {
    return row < rows.ranked ? "The text of this row is not on the page; it is in the files of the run." : "";
  }

  function facts(rows, row) {
    const known = { id: reveal(rows.id(row)), source: reveal(rows.sourceOf(row)) };
    if (row >= rows.ranked) {
      const [, , reason, detail] = rows.unusable[row - rows.ranked];
      return list({ ...known, reason: reveal(reason), detail: reveal(detail) });
    }
    known.score = number(rows.score[row]);
    if (rows.error) known["standard error"] = number(rows.error[row]);
    if (rows.loss) known.loss = `${number(rows.loss[row])} nats per token`;
    if (rows.gap) known.gap = `${number(rows.gap[row])} nats per token`;
    if (rows.weight) known.weight = number(rows.weight[row]);
    const certainty = rows.certainty(row);
    const doubt = rows.error && certainty < 2 ? ", but other safe rows might have decided otherwise" : "";
    const side = rows.score[row] < rows.threshold ? "below" : "at or above";
    if (rows.threshold !== null) known.state = `${rows.stateOf(row)}: ${side} the threshold ${number(rows.threshold)}${doubt}`;
    if (rows.labelOf(row)) known.label = rows.labelOf(row);
    return list(known);
  }

  function list(known) {
    const made = element("dl", { class: "facts" });
    for (const [name, value] of Object.entries(known)) made.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
    return made;
  }

  function buttons(id, decisions) {
    const box = element("div", { class: "buttons", role: "group", "aria-label": "Decision about this row" });
    for (const [name, key] of [["keep", "y"], ["drop", "n"], ["unsure", "u"]]) {
      const pressed = decisions.of(id) === name;
      const press = () => decisions.set([id], pressed ? null : name);
      box.append(element("button", { type: "button", "aria-pressed": String(pressed), "data-decide": name, onclick: press }, `${name} (${key})`));
    }
    return box;
  }

  function why(parts, width) {
    const figure = element("figure", {});
    const said = parts.map(([name, value]) => `${name} ${value.toFixed(2)}`).join(", ");
    figure.append(
      element("div", { role: "img", "aria-label": `The score as a sum: ${said}` }, Charts.waterfall(parts, Math.max(width, 220))),
      element("figcaption", {}, "The score as a sum, in standard deviations. Fit: how well a model of the safe set predicts the response. " +
        "Similarity: to the answer that the safe set would give. Probe: what hidden states of badly and of well fitting rows say. " +
        "Protection: for responses that read like the safe set."),
    );
    return figure;
  }

  // The rows that are most alike to the ranker: what the safe set says to such a prompt, and what else would go or stay.
  function alike(rows, row) {
    if (!rows.near || row >= rows.ranked) return [];
    const safe = rows.near.safe[row].map((place) => rows.near.texts[place]);
    const others = rows.near.rows[row];
    const found = [];
    if (safe.length) found.push(element("h4", {}, "Most alike in the safe set"));
    for (const [id, prompt, response] of safe) found.push(part(id, `${prompt} ⟶ ${response}`));
    if (others.length) found.push(element("h4", {}, "Most alike among the candidates"), element("ul", { class: "alike" }, ...others.map((other) => link(rows, other))));
    return found;
  }

  function link(rows, other) {
    const open = element("button", { type: "button", class: "link", onclick: () => rows.openRow(other) }, reveal(rows.id(other)));
    const said = element("span", {}, ` ${rows.stateOf(other)}, score ${number(rows.score[other])}: `);
    return element("li", {}, open, said, reveal(Text.line(rows.preview(other), 140)));
  }

  function part(name, text) {
    const body = element("div", { class: "text", dir: "auto" });
    body.append(reveal(text));
    return element("div", {}, element("p", { class: "label" }, reveal(name)), body);
  }

  return { show };
})();
