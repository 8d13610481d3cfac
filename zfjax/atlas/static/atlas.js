// Search and keys; every page works without them. The index is ATLAS, from search.js.
"use strict";

const LIMIT = 60; // results shown
const root = document.documentElement.dataset.root;
const input = document.getElementById("search");
const found = document.getElementById("found");
const said = document.getElementById("said");

const plain = (text) => text.normalize("NFKC").toLowerCase();
const CLASSES = ATLAS.classes.map(plain);

const classResult = (label) => ({ href: `class/${label}.html`, text: ATLAS.classes[label], note: "class" });
const layerResult = ([name, title, maps]) => ({
  href: `layer/${encodeURIComponent(name)}.html`, text: title, note: `${maps} maps`,
});
const mapResult = ([name, title], map, note) => ({
  href: `map/${encodeURIComponent(name)}/${map}.html`, text: `map ${map} of ${title}`, note,
});

/** Layers whose name or title has, for each word, one that begins with it. */
function layersOf(words) {
  return ATLAS.layers.filter(([name, title]) => {
    const known = plain(`map ${name} ${title}`).split(/[^\p{L}\p{N}_]+/u);
    return words.every((word) => known.some((one) => one.startsWith(word)));
  });
}

/** Classes that hold the query, then layers, then maps: "relu4 17", "17", "car". */
function search(query) {
  const words = query.split(/[^\p{L}\p{N}_]+/u).filter(Boolean);
  const last = words.at(-1);
  const labels = CLASSES.map((name, label) => [name.indexOf(query), label]).filter(([at]) => at >= 0);
  labels.sort(([a, one], [b, other]) => (a > 0) - (b > 0) || one - other);
  const results = labels.map(([, label]) => classResult(label));
  if (words.length) results.push(...layersOf(words).map(layerResult));
  if (last && /^\d+$/.test(last)) {
    const named = layersOf(words.slice(0, -1)).filter(([, , maps]) => Number(last) < maps);
    results.push(...named.map((layer) => mapResult(layer, Number(last), "map")));
  }
  for (const [, label] of labels.slice(0, 3)) {
    const maps = ATLAS.excited[label];
    results.push(...maps.map(([layer, map]) => mapResult(ATLAS.layers[layer], map, `prefers ${ATLAS.classes[label]}`)));
  }
  return results;
}

/** Names are text, never markup. */
function link({ href, text, note }) {
  const a = document.createElement("a");
  const name = document.createElement("bdi");
  const what = document.createElement("small");
  a.href = root + href;
  name.textContent = text;
  what.textContent = note.length > 32 ? `${note.slice(0, 31)}…` : note;
  a.append(name, what);
  return a;
}

function show() {
  const query = plain(input.value.trim());
  found.hidden = !query;
  const results = query ? search(query) : [];
  const nodes = results.slice(0, LIMIT).map(link);
  if (query && results.length !== nodes.length) nodes.push(line(`and ${results.length - LIMIT} more`));
  if (query && !results.length) nodes.push(line(nothing()));
  found.replaceChildren(...nodes);
  found.scrollTop = 0;
  said.textContent = query ? `${results.length} found` : "";
}

function nothing() {
  const [name, , maps] = ATLAS.layers[0];
  return `Nothing. Try a class, a layer like ${name}, or a map like ${name} ${Math.min(17, maps - 1)}.`;
}

function line(text) {
  const p = document.createElement("p");
  p.textContent = text;
  return p;
}

let place = ""; // the address's fragment when there is no search

/** The address holds the query, so that it can be passed on; without one it is what it was before. */
function remember() {
  const query = input.value.trim();
  const fragment = query ? `#q=${encodeURIComponent(query)}` : place;
  try {
    history.replaceState(null, "", fragment || location.pathname + location.search);
  } catch {
    // Safari refuses more than a hundred of these in a short time; the next one corrects the address.
  }
}

/** The address may hold a query; one that holds another place ends the search. */
function recall() {
  if (!location.hash.startsWith("#q=")) {
    place = location.hash;
    input.value = "";
    show();
    return;
  }
  try {
    input.value = decodeURIComponent(location.hash.slice(3));
  } catch {
    input.value = location.hash.slice(3);
  }
  input.focus();
  show();
}

function leave() {
  if (input.value) {
    input.value = "";
    remember();
  }
  show();
  document.getElementById("main").focus({ preventScroll: true });
}

function step(by) {
  const links = [...found.querySelectorAll("a")];
  const place = links.indexOf(document.activeElement) + by;
  (place < 0 ? input : links[Math.min(place, links.length - 1)] ?? input).focus();
}

function inSearch(event) {
  if (event.key === "Escape") leave();
  else if (event.key === "ArrowDown") step(1);
  else if (event.key === "ArrowUp" && document.activeElement !== input) step(-1);
  else if (event.key === "Enter" && document.activeElement === input) found.querySelector("a")?.click();
  else return;
  event.preventDefault();
}

function go(rel) {
  const a = document.querySelector(`a[rel="${rel}"]`);
  if (a) location.href = a.href;
  return Boolean(a);
}

const KEYS = {
  "/": () => (input.focus(), input.select(), true),
  ArrowLeft: () => go("prev"),
  ArrowRight: () => go("next"),
  // If the page can still scroll up, the arrow does that.
  ArrowUp: () => window.scrollY <= 0 && go("up"),
  u: () => go("up"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  // With arrows Shift extends a selection; on many keyboards "/" needs it.
  if (event.shiftKey && event.key.startsWith("Arrow")) return;
  if (event.target.closest(".search")) inSearch(event);
  else if (!event.repeat && KEYS[event.key]?.()) event.preventDefault();
});
// Not `focusout`: if a click does not focus the link, as in Safari, the link would hide before it is followed.
for (const type of ["pointerdown", "focusin"]) {
  document.addEventListener(type, (event) => {
    if (!event.target.closest(".search")) found.hidden = true;
  });
}
input.addEventListener("input", () => (show(), remember()));
input.addEventListener("focus", show);
window.addEventListener("hashchange", recall);
recall();
