"use strict";
// The rows of the page: columns, what is searched for, and the order in which they are shown.
class Rows {
  constructor(data) {
    Object.assign(this, data);
    this.ranked = data.ids.length;
    this.count = this.ranked + data.unusable.length;
    this.textOf = new Map(data.texts.rows.map((row, i) => [row, i]));
    this.haystacks = null;
    this.reasons = [...new Set(data.unusable.map((row) => row[2]))];
    this.sources = [...new Set([...data.source.names, ...data.unusable.map((row) => row[1])])];
  }

  id(row) {
    return row < this.ranked ? this.ids[row] : this.unusable[row - this.ranked][0];
  }

  sourceOf(row) {
    return row < this.ranked ? this.source.names[this.source.codes[row]] : this.unusable[row - this.ranked][1];
  }

  stateOf(row) {
    return row < this.ranked ? this.states[this.state[row]] : "unusable";
  }

  presentStates() {
    const found = new Set(this.state);
    return this.states.filter((name, code) => found.has(code) || (name === "unusable" && this.unusable.length));
  }

  labelOf(row) {
    const label = row < this.ranked && this.label ? this.label[row] : -1;
    return label < 0 ? null : label ? "unsafe" : "safe";
  }

  reasonOf(row) {
    return row < this.ranked ? null : this.unusable[row - this.ranked][2];
  }

  textsOf(row) {
    const place = this.textOf.get(row);
    return place === undefined ? null : [this.texts.prompts[place], this.texts.responses[place]];
  }

  preview(row) {
    if (row >= this.ranked) return this.unusable[row - this.ranked][3];
    const texts = this.textsOf(row);
    return texts ? `${texts[0].slice(0, 120)} ⟶ ${texts[1].slice(0, 160)}` : "";
  }

  // How uncertain it is on which side of the threshold a row belongs: small is uncertain.
  certainty(row) {
    if (row >= this.ranked || this.threshold === null) return Infinity;
    return Math.abs(this.score[row] - this.threshold) / (this.error?.[row] || 1);
  }

  haystack(row) {
    this.haystacks ??= Array.from({ length: this.count }, (_, i) =>
      [this.id(i), this.sourceOf(i), ...(this.textsOf(i) ?? [this.preview(i)])].join("\n").toLowerCase());
    return this.haystacks[row];
  }

  // The rows that fit, in the order of a column.
  find(wanted, sort, decisions) {
    const needle = wanted.search.trim().toLowerCase();
    const low = wanted.low === "" ? -Infinity : Number(wanted.low), high = wanted.high === "" ? Infinity : Number(wanted.high);
    const bounded = low !== -Infinity || high !== Infinity;
    const fits = (row) =>
      !(wanted.state && this.stateOf(row) !== wanted.state) &&
      !(wanted.source && this.sourceOf(row) !== wanted.source) &&
      !(wanted.label && this.labelOf(row) !== wanted.label) &&
      !(wanted.reason && this.reasonOf(row) !== wanted.reason) &&
      !(bounded && !(row < this.ranked && this.score[row] >= low && this.score[row] <= high)) &&
      !(wanted.decision && (decisions.of(this.id(row)) ?? "none") !== wanted.decision) &&
      !(needle && !this.haystack(row).includes(needle));
    const order = this.sorted(sort.by);
    const found = order.filter(fits);
    return sort.down ? found.reverse() : found;
  }

  // All rows in the order of a column; sorted once.
  sorted(by) {
    const keys = {
      score: (row) => (row < this.ranked ? this.score[row] : Infinity),
      loss: (row) => this.loss?.[row] ?? Infinity,
      certainty: (row) => this.certainty(row),
      source: (row) => this.sources.indexOf(this.sourceOf(row)),
      state: (row) => this.states.indexOf(this.stateOf(row)),
      label: (row) => ["unsafe", "safe", null].indexOf(this.labelOf(row)),
    };
    this.orders ??= {};
    if (!this.orders[by]) {
      const key = Float64Array.from({ length: this.count }, (_, row) => keys[by](row));
      this.orders[by] = Uint32Array.from({ length: this.count }, (_, row) => row).sort((a, b) => key[a] - key[b] || a - b);
    }
    return this.orders[by];
  }
}
