"use strict";
// All that comes from records reaches the page as text: nothing here makes HTML of it.

const byId = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

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

// --- samples: problems of a benchmark with the samples of one or two cells

const PAGE = 10; // problems that are drawn at once

class Samples {
  constructor(payload) {
    Object.assign(this, payload);
    this.form = byId("filters");
    this.fields = this.form.elements;
    this.fill("benchmark", Object.keys(this.benchmarks).map((name) => [name, name]));
    const cells = this.cells.map((cell, i) => [String(i), cell.label]);
    this.fill("left", cells);
    this.fill("right", [["", "nothing"], ...cells]);
    if (cells.length > 1) {
      this.fields.left.value = String(this.start[0]);
      this.fields.right.value = String(this.start[1]);
    }
    this.form.addEventListener("input", () => this.draw());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    byId("more").addEventListener("click", () => this.more());
    this.draw();
  }

  fill(name, options) {
    this.fields[name].replaceChildren(...options.map(([value, text]) => element("option", { value, textContent: text })));
  }

  draw() {
    const { benchmark, left, right, verdict, text } = this.fields;
    const known = this.benchmarks[benchmark.value];
    const sides = [left.value, right.value].filter((side) => side !== "").map(Number);
    const wanted = text.value.toLowerCase();
    this.chosen = known.problems
      .map((problem, i) => ({ problem, sides: sides.map((side) => [this.cells[side], known.cells[side][i]]) }))
      .filter((one) => one.sides.some(([, own]) => own) && TESTS[verdict.value](one.sides.map(([, own]) => own).filter(Boolean)))
      .filter((one) => !wanted || contains(one, wanted));
    this.fields.shown.value = `${this.chosen.length} of ${known.problems.length} problems`;
    this.drawn = 0;
    byId("problems").replaceChildren();
    this.more();
  }

  more() {
    const next = this.chosen.slice(this.drawn, this.drawn + PAGE);
    byId("problems").append(...next.map((one) => drawProblem(this.fields.benchmark.value, one)));
    for (const text of byId("problems").querySelectorAll("details")) text.open = this.fields.open.checked;
    this.drawn += next.length;
    byId("more").hidden = this.drawn >= this.chosen.length;
  }
}

const rate = (own) => [...own.right].filter((mark) => mark === "1").length / own.right.length;

const TESTS = {
  all: () => true,
  better: (own) => own.length === 2 && rate(own[1]) > rate(own[0]),
  worse: (own) => own.length === 2 && rate(own[1]) < rate(own[0]),
  solved: (own) => own.every((one) => rate(one) === 1),
  mixed: (own) => own.some((one) => rate(one) > 0 && rate(one) < 1),
  unsolved: (own) => own.every((one) => rate(one) === 0),
  disagree: (own) => own.some((one) => one.official !== undefined),
  cut: (own) => own.some((one) => one.cut > 0),
};

function contains({ problem, sides }, wanted) {
  const texts = sides.flatMap(([, own]) => (own ? own.texts.flatMap((one) => [one.text, one.answer]) : []));
  return [problem.question, problem.gold, ...texts].some((text) => text.toLowerCase().includes(wanted));
}

function drawProblem(benchmark, { problem, sides }) {
  const head = element("h3", {}, `${benchmark} ${problem.index} `);
  head.append(element("span", {}, "gold "), element("code", { textContent: problem.gold }));
  const columns = element("div", { className: "sides" }, ...sides.filter(([, own]) => own).map(drawSide));
  return element("article", { className: "problem" }, head, element("pre", { textContent: problem.question }), columns);
}

function drawSide([cell, own]) {
  const right = [...own.right].filter((mark) => mark === "1").length;
  const marks = element("span", { className: "marks" });
  marks.ariaHidden = "true";
  for (const mark of own.right) marks.append(element("i", { className: mark === "1" ? "right" : "" }));
  const head = element("h4", {}, cell.label, marks, element("span", { className: "muted" }, `${right} of ${own.right.length} right`));
  return element("div", { className: "side" }, head, ...own.texts.map((one) => drawText(own, one)));
}

function drawText(own, one) {
  const is = (marks) => (marks[one.sample] === "1" ? "right" : "wrong");
  const notes = [`${one.tokens} tokens`];
  if (one.end === "length") notes.push("cut by length");
  if (one.end === "too_long") notes.push("problem too long");
  if (own.official && own.official[one.sample] !== own.corrected[one.sample]) {
    notes.push(`official: ${is(own.official)}`, `corrected: ${is(own.corrected)}`);
  }
  const verdict = element("span", { className: `verdict ${is(own.right)}`, textContent: is(own.right) });
  const answer = one.answer ? element("code", { textContent: one.answer }) : "(no answer)";
  const summary = element("summary", {}, verdict, " ", answer, element("span", { className: "muted" }, ` · sample ${one.sample + 1}, ${notes.join(", ")}`));
  return element("details", {}, summary, element("pre", { textContent: one.text }));
}

if (byId("payload")) new Samples(JSON.parse(byId("payload").textContent));
