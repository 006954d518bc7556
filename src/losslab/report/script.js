// --- tables: a click on a head sorts, numbers from the highest first; a second click turns the order round

const worth = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;

function sort(table, head) {
  const column = head.cellIndex, numeric = head.classList.contains("number");
  const falling = head.ariaSort ? head.ariaSort === "ascending" : numeric;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const [x, y] = [worth(a, column), worth(b, column)];
    if (x === "" || y === "") return (x === "") - (y === ""); // what is missing stays last
    const order = numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
    return falling ? -order : order;
  });
  table.tBodies[0].append(...rows);
  for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
  head.ariaSort = falling ? "descending" : "ascending";
}

for (const table of document.querySelectorAll(".sortable")) {
  for (const button of table.tHead.querySelectorAll("button")) {
    button.addEventListener("click", () => sort(table, button.parentElement));
  }
}

// --- the row that differences are from

byId("against")?.addEventListener("change", (event) => {
  const rows = JSON.parse(byId("differences").textContent)[event.target.value];
  for (const row of byId("ablation").tBodies[0].rows) {
    row.querySelectorAll(".difference").forEach((place, i) => {
      const [text, kind] = rows[Number(row.dataset.row)][i];
      place.textContent = text;
      place.className = `difference ${kind}`;
    });
  }
});

// --- charts: rows on and off, values under the pointer or by the arrow keys

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.ariaPressed !== "true";
    button.ariaPressed = String(shown);
    for (const part of document.querySelectorAll(`svg.lines [data-row="${button.dataset.row}"]`)) {
      part.toggleAttribute("hidden", !shown);
    }
  });
}

const tip = byId("tip");
let shownAt; // how far the page was scrolled when the tip was shown

function showTip(content, x, y) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  shownAt = scrollY;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 4))}px`;
  tip.style.top = `${y + 18 + height > innerHeight ? y - height - 10 : y + 18}px`;
}

const numbers = (text) => text.split(" ").map(Number);

class Lines {
  constructor(svg) {
    this.svg = svg;
    this.curves = [...svg.querySelectorAll(".line")].map((line) => ({
      line,
      steps: numbers(line.dataset.x),
      values: line.dataset.v.split(" "),
      places: line.getAttribute("points").split(" ").map((point) => Number(point.split(",")[0])),
    }));
    const places = new Map(this.curves.flatMap((curve) => curve.places.map((place, i) => [place, curve.steps[i]])));
    this.stops = [...places].sort((a, b) => a[0] - b[0]);
    this.cross = document.createElementNS(svg.namespaceURI, "line");
    this.cross.setAttribute("class", "cross");
    svg.addEventListener("pointermove", (event) => this.point(event));
    svg.addEventListener("pointerdown", (event) => this.point(event));
    svg.addEventListener("pointerleave", () => this.leave());
    svg.addEventListener("blur", () => this.leave());
    svg.addEventListener("keydown", (event) => this.key(event));
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * this.svg.viewBox.baseVal.width;
    const away = this.stops.map(([stop]) => Math.abs(stop - place));
    this.show(away.indexOf(Math.min(...away)), event.clientX, event.clientY);
  }

  key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const at = Math.max(0, Math.min(this.stops.length - 1, (this.at ?? (by > 0 ? -1 : this.stops.length)) + by));
    const box = this.svg.getBoundingClientRect();
    this.show(at, box.left + (this.stops[at][0] / this.svg.viewBox.baseVal.width) * box.width, box.top + box.height / 2);
  }

  show(at, x, y) {
    this.at = at;
    const [place, step] = this.stops[at];
    const rows = [];
    for (const { line, places, values } of this.curves) {
      if (line.hasAttribute("hidden")) continue;
      const i = places.findIndex((own) => Math.abs(own - place) < 0.051);
      if (i < 0) continue;
      const colour = line.getAttribute("class").replace("line", "swatch");
      rows.push(element("div", {}, element("i", { className: colour }), line.dataset.label, element("b", { textContent: values[i] })));
    }
    for (const [name, value] of [["x1", place], ["x2", place], ["y1", 8], ["y2", this.svg.viewBox.baseVal.height - 20]]) {
      this.cross.setAttribute(name, value);
    }
    this.svg.append(this.cross);
    showTip([`${this.svg.dataset.across} ${step}`, ...rows], x, y);
  }

  leave() {
    this.at = undefined;
    this.cross.remove();
    tip.hidden = true;
  }
}

for (const svg of document.querySelectorAll("svg.lines")) new Lines(svg);
for (const part of document.querySelectorAll("[data-tip]")) {
  part.querySelector("title").remove(); // ours takes its place
  part.addEventListener("pointermove", (event) => showTip([part.dataset.tip], event.clientX, event.clientY));
  part.addEventListener("pointerleave", () => (tip.hidden = true));
}
// The event of a scroll comes a frame late: one from before the tip was shown (focus brings a chart into view) is not news.
addEventListener("scroll", () => (tip.hidden ||= scrollY !== shownAt), { passive: true });
