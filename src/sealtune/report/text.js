"use strict";
// Text of the user's rows: always a text node, with invisible characters spelled out as html.py does.
const Text = (() => {
  const INVISIBLE = new RegExp(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff" +
      "\\u034f\\u115f\\u1160\\u3164\\uffa0\\ud800-\\udfff\\ufff9-\\ufffb\\u{e0000}-\\u{e007f}\\u{e0100}-\\u{e01ef}]", "gu");

  const codePoint = (character) => "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

  function reveal(text) {
    const found = document.createDocumentFragment();
    let end = 0;
    for (const match of text.replaceAll("\r\n", "\n").matchAll(INVISIBLE)) {
      const mark = element("span", { class: "hidden-char", title: "invisible character" }, codePoint(match[0]));
      found.append(match.input.slice(end, match.index), mark);
      end = match.index + match[0].length;
    }
    found.append(text.replaceAll("\r\n", "\n").slice(end));
    return found;
  }

  // A short text in one line, for places that take plain strings only.
  function line(text, limit) {
    const plain = text.replace(INVISIBLE, codePoint).replace(/\s+/g, " ");
    return plain.length > limit ? plain.slice(0, limit - 1) + "…" : plain;
  }

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  }

  const number = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));

  async function unpack(id) {
    const text = atob(document.getElementById(id).textContent), bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  return { reveal, line, element, number, unpack };
})();
