"use strict";
// The state of the page is in its address: map.html#swipe=0.5&opacity=0.85&left=labels&right=map&at=11/37.2/-113.1
const facts = JSON.parse(document.getElementById("facts").textContent);
const element = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.hash.slice(1));
const number = (name, otherwise) => (asked.has(name) && isFinite(asked.get(name)) ? Number(asked.get(name)) : otherwise);
const known = (name) => name === "" || facts.layers.some((layer) => layer.name === name);
const state = {
  swipe: Math.min(Math.max(number("swipe", 0.5), 0), 1),
  opacity: Math.min(Math.max(number("opacity", 0.85), 0), 1),
  image: number("image", 1) !== 0,
  left: known(asked.get("left") ?? facts.left) ? (asked.get("left") ?? facts.left) : facts.left,
  right: known(asked.get("right") ?? facts.right) ? (asked.get("right") ?? facts.right) : facts.right,
};
const title = (name) => facts.layers.find((layer) => layer.name === name)?.title ?? "";

const map = L.map("map", { attributionControl: false, minZoom: facts.zooms[0], maxZoom: facts.zooms[1] + 4, zoomSnap: 0.5 });
L.control.scale().addTo(map);
const bounds = L.latLngBounds(facts.bounds);
const nothing = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
// A tile that holds nothing is not on the disk: to ask for it would be an error in the console.
const Tiles = L.TileLayer.extend({
  getTileUrl(place) {
    const url = L.TileLayer.prototype.getTileUrl.call(this, place);
    return this.options.there.has(url) ? url : nothing;
  },
});
function tiles(name, pane) {
  const address = (tile) => `tiles/${name}/${tile}.png`;
  const options = { pane, bounds, minNativeZoom: facts.zooms[0], maxNativeZoom: facts.zooms[1], maxZoom: facts.zooms[1] + 4 };
  return new Tiles(address("{z}/{x}/{y}"), { ...options, noWrap: true, there: new Set(facts.tiles[name].map(address)) });
}
const panes = {};
for (const [place, name] of ["below", "left", "right"].entries()) {
  panes[name] = map.createPane(name);
  panes[name].style.zIndex = 200 + 10 * place;
  if (name !== "below") panes[name].classList.add("pixels");
}
const image = facts.image ? tiles("image", "below") : null;
const sides = {};

function draw() {
  for (const side of ["left", "right"]) {
    if (sides[side]?.name === state[side]) continue;
    sides[side]?.layer?.remove();
    sides[side] = { name: state[side], layer: state[side] ? tiles(state[side], side).addTo(map) : null };
  }
  if (image && state.image !== map.hasLayer(image)) state.image ? image.addTo(map) : image.remove();
  for (const side of ["left", "right"]) panes[side].style.opacity = state.opacity;
  element("left-name").textContent = title(state.left) || (facts.image ? "true colour" : "");
  element("right-name").textContent = title(state.right) || (facts.image ? "true colour" : "");
  clip();
}

function clip() {
  const size = map.getSize();
  const at = Math.round(size.x * state.swipe);
  const start = map.containerPointToLayerPoint([0, 0]);
  const end = map.containerPointToLayerPoint(size);
  const middle = start.x + at;
  panes.left.style.clip = `rect(${start.y}px, ${middle}px, ${end.y}px, ${start.x}px)`;
  panes.right.style.clip = `rect(${start.y}px, ${end.x}px, ${end.y}px, ${middle}px)`;
  for (const id of ["divider", "left-name", "right-name"]) element(id).style.left = `${at}px`;
}

let waiting = 0;
function remember() {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const { lat, lng } = map.getCenter();
    const at = `${map.getZoom()}/${lat.toFixed(5)}/${lng.toFixed(5)}`;
    const { swipe, opacity, left, right } = state;
    history.replaceState(null, "", `#swipe=${swipe}&opacity=${opacity}&image=${+state.image}&left=${left}&right=${right}&at=${at}`);
  }, 300);
}

// The classes under the cursor come from a copy inside the page: pixels of tiles opened from a disk may not be read.
const indices = {};
for (const { name, lookup } of facts.layers) {
  const picture = new Image();
  picture.onload = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.width, picture.height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    indices[name] = (place) => {
      const point = L.CRS.EPSG3857.project(place);
      const x = Math.floor((point.x - lookup.corner[0]) / lookup.metres);
      const y = Math.floor((lookup.corner[1] - point.y) / lookup.metres);
      if (x < 0 || y < 0 || x >= picture.width || y >= picture.height) return "";
      return facts.names[context.getImageData(x, y, 1, 1).data[0]] ?? "";
    };
  };
  picture.src = `data:image/png;base64,${lookup.png}`;
}
function name_place({ latlng }) {
  const { lat, lng } = latlng.wrap();
  const degrees = (value, letters) => `${Math.abs(value).toFixed(5)}\u00b0 ${letters[value < 0 ? 1 : 0]}`;
  element("place").textContent = `${degrees(lat, "NS")}, ${degrees(lng, "EW")}`;
  const shown = [...new Set([state.left, state.right])].filter((name) => name && indices[name]);
  const found = shown.map((name) => [title(name), indices[name](latlng)]).filter(([, text]) => text);
  element("classes").textContent = found.map(([layer, text]) => `${layer}: ${text}`).join(" \u00b7 ");
}

document.title = facts.title;
element("title").textContent = facts.title;
for (const side of ["left", "right"]) {
  for (const { name, title: text } of [...facts.layers, { name: "", title: "nothing" }]) element(side).add(new Option(text, name));
  element(side).value = state[side];
}
for (const [place, colour, note] of facts.legend) {
  const item = element("legend").appendChild(document.createElement("li"));
  item.appendChild(document.createElement("i")).style.background = colour;
  item.append(facts.names[place]);
  item.appendChild(document.createElement("small")).textContent = note;
}
element("swipe").value = 1000 * state.swipe;
element("opacity").value = 100 * state.opacity;
element("image").checked = state.image;
element("image-row").hidden = !facts.image;
const inputs = {
  swipe: (input) => (state.swipe = input.value / 1000),
  opacity: (input) => (state.opacity = input.value / 100),
  image: (input) => (state.image = input.checked),
  left: (input) => (state.left = input.value),
  right: (input) => (state.right = input.value),
};
for (const [id, take] of Object.entries(inputs)) {
  element(id).addEventListener("input", (event) => { take(event.target); draw(); remember(); });
}
const at = (asked.get("at") ?? "").split("/").map(Number);
if (at.length === 3 && at.every(isFinite)) map.setView([at[1], at[2]], at[0]);
else map.fitBounds(bounds, { padding: [20, 20] });
map.setMaxBounds(bounds.pad(0.5));
draw();
map.on("move resize zoomend", clip).on("moveend", remember).on("mousemove", name_place);
map.on("mouseout", () => { element("place").textContent = element("classes").textContent = ""; });
