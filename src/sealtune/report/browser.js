"use strict";
// The table of rows, of which only those in sight are in the document, and the pane of the row that is open.
class Browser {
  constructor(rows, decisions) {
    this.rows = rows;
    rows.openRow = (row) => this.showRow(row);
    this.decisions = decisions;
    this.sort = { by: "score", down: false };
    this.order = [];
    this.open = null;
    this.view = document.getElementById("row-view");
    this.table = document.getElementById("row-table");
    this.body = this.table.tBodies[0];
    this.form = document.getElementById("row-filter");
    this.connect();
    this.refresh();
  }

  connect() {
    const { element } = Text;
    const choices = (name, values, fewest = 2) => {
      const select = this.form.elements[name];
      for (const value of values) select.append(element("option", { value }, Text.line(value, 40)));
      select.closest("label").hidden = values.length < fewest;
    };
    choices("state", this.rows.presentStates());
    choices("source", this.rows.sources);
    choices("reason", this.rows.reasons, 1);
    choices("label", this.rows.label ? ["unsafe", "safe"] : []);
    this.form.addEventListener("input", () => this.refresh());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.view.addEventListener("scroll", () => requestAnimationFrame(() => this.paint()));
    new ResizeObserver(() => this.paint()).observe(this.view);
    this.table.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("click", (event) => {
      const line = event.target.closest("tr[data-place]");
      if (line) this.show(Number(line.dataset.place));
    });
    for (const button of this.table.querySelectorAll("thead button")) {
      button.addEventListener("click", () => this.sortBy(button.dataset.by));
    }
    document.getElementById("review").addEventListener("click", () => this.sortBy("certainty", false));
    for (const button of document.querySelectorAll("[data-mark-all]")) {
      const decision = button.dataset.markAll || null;
      button.addEventListener("click", () => this.decisions.set(Array.from(this.order, (row) => this.rows.id(row)), decision));
    }
  }

  sortBy(by, down = this.sort.by === by ? !this.sort.down : false) {
    this.sort = { by, down };
    for (const button of this.table.querySelectorAll("thead button")) {
      const direction = button.dataset.by !== by ? null : down ? "descending" : "ascending";
      const cell = button.closest("th");
      direction ? cell.setAttribute("aria-sort", direction) : cell.removeAttribute("aria-sort");
    }
    this.refresh();
  }

  refresh() {
    const wanted = Object.fromEntries(new FormData(this.form));
    this.order = this.rows.find(wanted, this.sort, this.decisions);
    const all = this.rows.total + this.rows.unusable.length;
    const shown = `${this.order.length.toLocaleString("en")} of ${all.toLocaleString("en")} rows`;
    const absent = this.rows.total - this.rows.ranked;
    document.getElementById("row-count").textContent =
      absent ? `${shown}; ${absent.toLocaleString("en")} are not on this page` : shown;
    this.table.setAttribute("aria-rowcount", this.order.length + 1);
    this.view.scrollTop = 0;
    this.paint();
  }

  get height() {
    return parseFloat(getComputedStyle(this.table).getPropertyValue("--row"));
  }

  paint() {
    const height = this.height, sight = Math.ceil(this.view.clientHeight / height);
    const first = Math.max(0, Math.floor(this.view.scrollTop / height) - 8);
    const last = Math.min(this.order.length, first + sight + 16);
    const gap = (rows) => Text.element("tr", { class: "gap", "aria-hidden": "true", style: `height: ${rows * height}px` });
    const lines = [gap(first)];
    for (let place = first; place < last; place++) lines.push(this.line(place));
    lines.push(gap(this.order.length - last));
    this.body.replaceChildren(...lines);
    const open = document.getElementById("open-row");
    open ? this.table.setAttribute("aria-activedescendant", "open-row") : this.table.removeAttribute("aria-activedescendant");
  }

  line(place) {
    const { element, reveal, number } = Text, row = this.order[place];
    const badge = (name) => (name ? element("span", { class: `badge ${name}` }, name) : "");
    const marks = { "data-place": place, "aria-rowindex": place + 2, "aria-selected": String(row === this.open) };
    const line = element("tr", row === this.open ? { ...marks, id: "open-row" } : marks);
    const score = row < this.rows.ranked ? number(this.rows.score[row]) : "–";
    line.append(
      element("td", { class: "n" }, score),
      element("td", {}, badge(this.rows.stateOf(row))),
      element("td", {}, badge(this.decisions.of(this.rows.id(row)))),
      element("td", {}, badge(this.rows.labelOf(row))),
      element("td", { class: "n" }, number(this.rows.loss?.[row])),
      element("td", {}, reveal(this.rows.sourceOf(row))),
      element("td", { class: "preview" }, reveal(this.rows.preview(row).replace(/\s+/g, " "))),
    );
    return line;
  }

  key(event) {
    const place = this.order.indexOf(this.open);
    const moves = { ArrowDown: place + 1, j: place + 1, ArrowUp: place - 1, k: place - 1, Home: 0, End: this.order.length - 1 };
    const marks = { y: "keep", n: "drop", u: "unsure", Backspace: null };
    if (event.target.closest("button") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) this.show(Math.min(Math.max(moves[event.key], 0), this.order.length - 1));
    else if (event.key in marks && this.open !== null) this.decisions.set([this.rows.id(this.open)], marks[event.key]);
    else return;
    event.preventDefault();
  }

  // Open the row at a place of the table.
  show(place) {
    if (!this.order.length) return;
    this.open = this.order[place];
    const height = this.height, top = place * height, head = this.table.tHead.offsetHeight;
    if (top < this.view.scrollTop) this.view.scrollTop = top;
    if (top + height + head > this.view.scrollTop + this.view.clientHeight) {
      this.view.scrollTop = top + height + head - this.view.clientHeight;
    }
    this.paint();
    Detail.show(this.rows, this.open, this.decisions);
  }

  showRow(row) {
    if (!this.order.includes(row)) {
      this.form.reset();
      this.refresh();
    }
    this.show(this.order.indexOf(row));
  }
}
