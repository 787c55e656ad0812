// Shows the images of the page's data.  What an image or a registry says gets into the page as
// text alone (textContent, and attributes that hold no code): nothing here reads it as HTML.
"use strict";

const AXES = {
  sync: ["up to date", "pending", "held", "leaving"],
  health: ["ok", "failing", "stale", "degraded"],
};
const COLUMNS = [
  ["image", "Image", (i) => I.title[i]],
  ["sync", "In step", (i) => AXES.sync.indexOf(I.sync[i])],
  ["health", "Health", (i) => AXES.health.indexOf(I.health[i])],
  ["", "How it stands", null],
  ["published", "Published", (i) => I.published[i]],
  ["size", "Size", (i) => I.sizes[i].compressed],
  ["own", "Own", (i) => I.sizes[i].own],
];
const FIRST_ROWS = 100, MORE_ROWS = 400, NAMES = 50, DAYS = 120;

let data, I, found = [], shown = 0, left = null;
const state = { q: "", sync: new Set(), health: new Set(), sort: "", image: "" };
const at = (id) => document.getElementById(id);

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// --- words ---------------------------------------------------------------

function bytes(number) {
  if (number === null || number === undefined) return "?";
  let value = number, unit = 0;
  while (value >= 1000 && unit < 4) { value /= 1000; unit += 1; }
  return `${unit ? value.toFixed(1) : value} ${["B", "kB", "MB", "GB", "TB"][unit]}`;
}
const whole = (number) => (number === null ? "?" : number.toLocaleString("en"));
const counted = (number, noun) => `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;
const clock = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short" });
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

function time(seconds) {
  if (seconds === null) return document.createTextNode("?");
  const date = new Date(seconds * 1000);
  return make("time", { datetime: date.toISOString() }, clock.format(date));
}
function ago(seconds) {
  const past = seconds - Date.now() / 1000;
  for (const [unit, length] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(past) >= length) return relative.format(Math.round(past / length), unit);
  }
  return "just now";
}
const withAgo = (seconds) => [time(seconds), seconds === null ? "" : ` (${ago(seconds)})`];
// A name breaks where its parts end.
const named = (name) => name.split(/(?<=[/:@])/).flatMap((part) => [make("wbr"), part]).slice(1);
const badge = (value, tag = "span") =>
  make(tag, { class: `state ${value.replaceAll(" ", "-")}` }, value);

// --- the address ---------------------------------------------------------

const identity = (i) => `${I.repository[i]}/${I.title[i]}`;

function address(changes) {
  const wanted = { ...state, ...changes };
  const parts = new URLSearchParams();
  if (wanted.image) parts.set("image", wanted.image);
  if (wanted.q) parts.set("q", wanted.q);
  for (const axis of Object.keys(AXES)) {
    if (wanted[axis].size) parts.set(axis, [...wanted[axis]].join(","));
  }
  if (wanted.sort) parts.set("sort", wanted.sort);
  return `#${parts}`.replaceAll("%2F", "/").replaceAll("%3A", ":").replaceAll("%2C", ",");
}

function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  state.q = parts.get("q") || "";
  state.image = parts.get("image") || "";
  const sort = parts.get("sort") || "";
  state.sort = COLUMNS.some(([key]) => key && key === sort.replace(/^-/, "")) ? sort : "";
  for (const [axis, values] of Object.entries(AXES)) {
    const named = (parts.get(axis) || "").split(",");
    state[axis] = new Set(values.filter((value) => named.includes(value)));
  }
  at("search").value = state.q;
  for (const box of document.querySelectorAll("fieldset input")) {
    box.checked = state[box.name].has(box.value);
  }
}

// --- the list ------------------------------------------------------------

function search() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const counts = { sync: new Map(), health: new Map() };
  found = [];
  for (let i = 0; i < I.title.length; i += 1) {
    if (!words.every((word) => I.text[i].includes(word))) continue;
    const sync = !state.sync.size || state.sync.has(I.sync[i]);
    const health = !state.health.size || state.health.has(I.health[i]);
    if (health) counts.sync.set(I.sync[i], (counts.sync.get(I.sync[i]) || 0) + 1);
    if (sync) counts.health.set(I.health[i], (counts.health.get(I.health[i]) || 0) + 1);
    if (sync && health) found.push(i);
  }
  sort();
  for (const box of document.querySelectorAll("fieldset input")) {
    box.nextElementSibling.textContent = `(${whole(counts[box.name].get(box.value) || 0)})`;
  }
}

function sort() {
  const column = COLUMNS.find(([key]) => key && key === state.sort.replace(/^-/, ""));
  const down = state.sort.startsWith("-") ? -1 : 1;
  const by = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  if (column) {
    const value = column[2];
    // What is not known comes last either way.
    found.sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return down * by(x, y) || a - b;
    });
  } else {
    found.sort((a, b) => I.trouble[b] - I.trouble[a] || a - b);
  }
}

function showColumns() {
  at("columns").replaceChildren(...COLUMNS.map(([key, title]) => {
    const sorted = key && key === state.sort.replace(/^-/, "");
    const direction = state.sort.startsWith("-") ? "descending" : "ascending";
    const number = key === "size" || key === "own" ? "number" : null;
    const head = make("th", { scope: "col", role: "columnheader", class: number, "data-column": key,
      "aria-sort": sorted ? direction : key ? "none" : null });
    head.append(key ? make("button", { type: "button", "data-sort": key }, title) : title);
    return head;
  }));
}

function row(i) {
  const cell = (label, kind, ...children) =>
    make("td", { role: "cell", class: kind, "data-label": label }, ...children);
  return make("tr", { role: "row" },
    make("th", { scope: "row", role: "rowheader", class: "name" },
      link(i)),
    cell(null, null, badge(I.sync[i])),
    cell(null, null, badge(I.health[i])),
    cell(null, "how", I.verdict[i]),
    cell("Published", "when", time(I.published[i])),
    cell("Size", "number", bytes(I.sizes[i].compressed)),
    cell("Own", "number", bytes(I.sizes[i].own)));
}

function showRows(number) {
  const more = found.slice(shown, shown + number).map(row);
  at("rows").append(...more);
  shown += more.length;
  const rest = found.length - shown;
  at("more").hidden = !rest;
  at("more").textContent = `Show ${whole(Math.min(rest, MORE_ROWS))} more of ${whole(rest)}`;
  return more[0];
}

function showList() {
  search();
  showColumns();
  at("rows").replaceChildren();
  shown = 0;
  showRows(FIRST_ROWS);
  const all = I.title.length;
  const text = found.length === all ? `${counted(all, "image")}` :
    `${whole(found.length)} of ${counted(all, "image")}`;
  if (at("count").textContent !== text) at("count").textContent = text;
}

function changed() {
  history.replaceState(null, "", address({}));
  showList();
}

// --- one image -----------------------------------------------------------

function copied(label, text) {
  const code = make("code", null, text);
  const button = make("button", { type: "button", "aria-label": `Copy: ${label}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
  });
  return make("div", { class: "copy" }, make("span", null, label), code, button);
}

function described(pairs) {
  return make("dl", null, ...pairs.filter((pair) => pair).flatMap(([name, ...values]) =>
    [make("dt", null, name), make("dd", null, ...values)]));
}

function table(id, titles, rows) {
  return make("table", { id }, make("thead", null, make("tr", null,
    ...titles.map((title) => make("th", { scope: "col" }, title)))),
  make("tbody", null, ...rows));
}
const cells = (...values) => make("tr", null, ...values.map((value) => make("td", null, value)));

function link(i) {
  return make("a", { href: address({ image: identity(i) }) }, ...named(I.title[i]));
}

function sharers(layer, i) {
  if (!data.users) {
    data.users = data.layers.map(() => []);
    I.layers.forEach((layers, one) => new Set(layers).forEach((n) => data.users[n].push(one)));
  }
  const others = data.users[layer].filter((one) => one !== i);
  if (!others.length) return "this image alone";
  const rest = others.length - NAMES;
  return make("details", null, make("summary", null, counted(others.length, "other image")),
    make("ul", null, ...others.slice(0, NAMES).map((one) => make("li", null, link(one))),
      rest > 0 ? make("li", null, `and ${whole(rest)} more`) : null));
}

function failed(failure) {
  return make("li", null, failure.reason, make("div", { class: "quiet" },
    `${failure.kind}, ${failure.count === 1 ? "1 try" : `${whole(failure.count)} tries`}, first `,
    time(failure.first), ", last ", time(failure.last),
    ...(failure.ended === null ? ["; it stands"] : ["; over since ", time(failure.ended)])));
}

function details(i) {
  const wish = I.wish[i], sizes = I.sizes[i], losses = Object.entries(I.losses[i]);
  return described([
    ["Wish list", wish.recipe ? wish.recipe + (wish.commit ? ` at ${wish.commit}` : "") : "none"],
    ["Repository", I.repository[i]],
    ["Platform", (I.platforms[i].length ? I.platforms[i].join(", ") : I.platform[i]) || "?"],
    ["First seen", ...withAgo(I.first_seen[i])],
    ["Published", ...(I.published[i] === null ? ["not yet"] : withAgo(I.published[i])),
      I.revision[i] === null ? "" : `, in revision ${I.revision[i]}`],
    I.next_try[i] !== null && ["Next try", ...withAgo(I.next_try[i])],
    ["Size", `${bytes(sizes.compressed)} compressed, ${bytes(sizes.unpacked)} unpacked, ` +
      `${whole(sizes.files)} files; ${bytes(sizes.own)} are of this image alone`],
    losses.length > 0 &&
      ["Not kept", losses.map(([kind, number]) => `${whole(number)} ${kind}`).join(", ")],
  ]);
}

function digests(i) {
  const current = I.current[i], wanted = I.wanted[i] === null ? current : I.wanted[i];
  const parts = [];
  if (current) parts.push(copied("published", current));
  if (wanted && wanted !== current) parts.push(copied("wanted", wanted));
  const marks = (digest) => [current.startsWith(digest) && "published",
    wanted.startsWith(digest) && "wanted"].filter(Boolean).join(", ");
  if (I.history[i].length) {
    parts.push(table("history", ["Seen first", "Digest", "State"], I.history[i].map(([digest, seen]) =>
      cells(time(seen), make("code", null, digest), digest ? marks(digest) : ""))));
  }
  return parts;
}

function changes(i) {
  const found = I.changes[i];
  if (!found.since) return [];
  const part = (kind) => `${kind} ${counted(found[kind].files, "file")}, ${bytes(found[kind].bytes)}`;
  const files = found.largest.map(([kind, path, size]) =>
    cells(kind, make("code", null, path), bytes(size)));
  return [
    make("h3", null, "What changed"),
    make("p", null, `From ${found.since.slice(0, 19)}: ` +
      `${["added", "removed", "changed"].map(part).join("; ")}.`),
    ...(files.length ? [make("details", null, make("summary", null, "The largest of them"),
      table("changes", ["What", "Path", "Size"], files))] : []),
  ];
}

function imageView(i) {
  const names = { path: "Path", apptainer: "Apptainer", podman: "Podman" };
  const paths = Object.entries(I.paths[i]);
  const failures = [...(I.failure[i] ? [I.failure[i]] : []), ...I.failures[i]];
  const layers = I.layers[i];
  const title = (text) => make("h3", null, text);
  return [
    make("p", null, make("a", { href: address({ image: "" }), id: "back" }, "All images")),
    make("h2", { id: "image-title", tabindex: "-1" }, ...named(I.title[i])),
    make("p", null, badge(I.sync[i]), " ", badge(I.health[i])),
    make("p", { class: `verdict ${(I.health[i] === "ok" ? I.sync : I.health)[i].replaceAll(" ", "-")}` },
      make("span", null, I.verdict[i])),
    ...(paths.length ? [title("Use it"),
      ...paths.map(([key, text]) => copied(names[key] || key, text))] : []),
    title("What is known"), details(i),
    title("Digests"), ...digests(i),
    ...changes(i),
    ...(failures.length ? [title("Failures"),
      make("ul", { class: "failures" }, ...failures.map(failed))] : []),
    ...(layers.length ? [title(counted(layers.length, "layer")), table("layers",
      ["Digest", "Size", "Shared with"], layers.map((n) => cells(
        make("code", null, data.layers[n][0]), bytes(data.layers[n][1]), sharers(n, i))))] : []),
  ];
}

function missing() {
  return [
    make("p", null, make("a", { href: address({ image: "" }), id: "back" }, "All images")),
    make("h2", { id: "image-title", tabindex: "-1" }, "No such image"),
    make("p", null, `No wish list names ${state.image}, and nothing of it is published. `,
      make("a", { href: address({ image: "", q: state.image }) }, "Search for it")),
  ];
}

// --- pictures ------------------------------------------------------------

function bar(part) {
  const inner = make("span");
  inner.style.width = `${Math.round(1000 * part) / 10}%`;
  return make("span", { class: "bar", "aria-hidden": "true" }, inner);
}

function showShared() {
  const { bytes: all, shared, layers } = data.totals;
  if (!all) return at("shared").remove();
  at("shared").append(bar(shared / all), make("p", null,
    `${bytes(shared)} of ${bytes(all)} (${Math.round(100 * shared / all)} %) are in layers that ` +
    `several images have; ${counted(layers, "layer")} in all.`));
}

function showLargest() {
  const largest = I.title.map((_, i) => i).filter((i) => I.sizes[i].compressed)
    .sort((a, b) => I.sizes[b].compressed - I.sizes[a].compressed).slice(0, 10);
  if (!largest.length) return at("largest").remove();
  const most = I.sizes[largest[0]].compressed;
  at("largest").append(make("table", null, make("tbody", null, ...largest.map((i) =>
    make("tr", null, make("th", { scope: "row" }, link(i)),
      make("td", null, bar(I.sizes[i].compressed / most)),
      make("td", { class: "number" }, bytes(I.sizes[i].compressed)))))));
}

function showDays() {
  if (!data.days.length) return at("days").remove();
  const days = new Map(data.days.map((day) => [day.day, day]));
  const last = Date.parse(data.days.at(-1).day), blocks = [];
  for (let n = DAYS - 1; n >= 0; n -= 1) {
    const name = new Date(last - n * 86400000).toISOString().slice(0, 10);
    const { converted = 0, failed = 0 } = days.get(name) || {};
    const level = converted > 20 ? "many" : converted > 5 ? "several" : "few";
    blocks.push(make("span", { title: `${name}: ${converted} converted, ${failed} failed` },
      make("span", { class: converted ? `some ${level}` : null }),
      make("span", { class: failed ? "failed" : null })));
  }
  const first = new Date(last - (DAYS - 1) * 86400000).toISOString().slice(0, 10);
  const rows = [...data.days].reverse().map((day) =>
    cells(day.day, whole(day.converted), whole(day.failed), whole(day.removed)));
  at("days").append(make("div", { class: "blocks", "aria-hidden": "true" }, ...blocks),
    make("p", { class: "ends" }, make("span", null, first), make("span", null, data.days.at(-1).day)),
    make("p", { class: "quiet" }, "Above what was converted, below what failed."),
    make("details", null, make("summary", null, "As a table"),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Days" },
        table("by-day", ["Day", "Converted", "Failed", "Removed"], rows))));
}

// --- all of it -----------------------------------------------------------

function show() {
  readAddress();
  const was = at("image").hidden ? "" : "image";
  at("image").hidden = !state.image;
  at("list").hidden = at("pictures").hidden = Boolean(state.image);
  if (state.image) {
    const i = I.title.findIndex((title, n) => [title, identity(n)].includes(state.image));
    at("image").replaceChildren(...(i < 0 ? missing() : imageView(i)));
    document.title = `${i < 0 ? "No such image" : I.title[i]} - Where is my image?`;
    left = state.image;
    scrollTo(0, 0);
    at("image-title").focus();
    return;
  }
  document.title = "Where is my image?";
  showList();
  if (was) {
    // Back to where the reader was.
    const i = found.findIndex((n) => identity(n) === left);
    if (i >= shown) showRows(i + 1 - shown);
    (at("rows").children[i]?.querySelector("a") || at("search")).focus();
  }
}

function listen() {
  at("filter").addEventListener("submit", (event) => event.preventDefault());
  at("search").addEventListener("input", () => { state.q = at("search").value; changed(); });
  at("filter").addEventListener("change", (event) => {
    const box = event.target;
    if (box.type !== "checkbox") return;
    if (box.checked) state[box.name].add(box.value); else state[box.name].delete(box.value);
    changed();
  });
  at("filter").addEventListener("reset", () => {
    state.q = "";
    for (const axis of Object.keys(AXES)) state[axis].clear();
    changed();
  });
  at("columns").addEventListener("click", (event) => {
    const key = event.target.dataset.sort;
    if (!key) return;
    state.sort = { [key]: `-${key}`, [`-${key}`]: "" }[state.sort] ?? key;
    changed();
    document.querySelector(`[data-sort="${key}"]`).focus();
  });
  at("more").addEventListener("click", () => showRows(MORE_ROWS).querySelector("a").focus());
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    at(state.image ? "image-title" : "results").focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.image) location.hash = address({ image: "" });
  });
  addEventListener("hashchange", show);
}

async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

async function begin() {
  data = await unpack(at("data").textContent);
  I = data.images;
  I.text = I.title.map((title, i) => [identity(i), I.verdict[i],
    I.wish[i].recipe || "", I.sync[i], I.health[i]].join("\n").toLowerCase());
  // Newest failure first.
  I.trouble = I.failure.map((failure) => (failure ? failure.last : 0));
  at("made").replaceWith(make("span", { id: "made" }, ...withAgo(data.made)));
  for (const [axis, values] of Object.entries(AXES)) {
    document.querySelector(`[data-axis=${axis}]`).append(...values.map((value) =>
      make("label", null, make("input", { type: "checkbox", name: axis, value }), ` ${value} `,
        make("span", { class: "quiet" }))));
  }
  listen();
  show();
  showShared();
  showDays();
  showLargest();
  performance.mark("shown");
  document.documentElement.dataset.ready = "yes";
}

begin().catch((error) => {
  at("broken").textContent = `The page cannot be shown: ${error}. The same is in status.json.`;
  at("broken").hidden = false;
});
