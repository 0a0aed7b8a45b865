"use strict";
// What people decide about rows: keep, drop or unsure. They are written as decisions.jsonl, which sealtune obeys.
class Decisions {
  constructor(found, changed) {
    this.byId = new Map(Object.entries(found));
    this.changed = changed;
    this.before = null;
    this.person = "";
  }

  of(id) {
    return this.byId.get(id)?.decision ?? null;
  }

  get size() {
    return this.byId.size;
  }

  // null takes a decision back.
  set(ids, decision) {
    this.before = new Map(this.byId);
    const at = new Date().toISOString();
    for (const id of ids) {
      if (decision) this.byId.set(id, { decision, by: this.person, at });
      else this.byId.delete(id);
    }
    this.changed();
  }

  undo() {
    if (!this.before) return;
    [this.byId, this.before] = [this.before, null];
    this.changed();
  }

  text() {
    return [...this.byId].map(([id, made]) => JSON.stringify({ id, ...made }) + "\n").join("");
  }

  read(text) {
    this.before = new Map(this.byId);
    for (const line of text.split("\n").filter((one) => one.trim())) {
      const { id, ...made } = JSON.parse(line);
      if (typeof id !== "string" || !["keep", "drop", "unsure"].includes(made.decision)) throw new Error(line.slice(0, 80));
      this.byId.set(id, made);
    }
    this.changed();
  }

  // Into the run's folder, if sealtune serves the page; to the browser's downloads otherwise. Returns what was done.
  async save() {
    if (location.protocol === "file:") {
      this.download();
      return "saved to your downloads";
    }
    const answer = await fetch("decisions.jsonl", { method: "PUT", body: this.text() });
    return answer.ok ? "saved in the folder of the run" : `not saved: ${Text.line(await answer.text(), 200)}`;
  }

  download() {
    const address = URL.createObjectURL(new Blob([this.text()], { type: "application/x-ndjson" }));
    Text.element("a", { href: address, download: "decisions.jsonl" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }
}
