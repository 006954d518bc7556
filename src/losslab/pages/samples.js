// --- samples: problems of a benchmark with the samples of one or two cells

const PAGE = 10; // problems that are drawn at once

class Samples {
  constructor(payload) {
    Object.assign(this, payload);
    this.form = byId("filters");
    this.fields = this.form.elements;
    this.fill("benchmark", Object.keys(this.benchmarks).map((name) => [name, name]));
    const cells = this.cells.map((cell, i) => [String(i), cell.label]);
    if (this.fields.left) {
      this.fill("left", cells);
      this.fill("right", [["", "nothing"], ...cells]);
    }
    if (this.fields.left && cells.length > 1) {
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
    const shown = this.benchmarks[benchmark.value];
    const sides = left ? [left.value, right.value].filter((side) => side !== "").map(Number) : [0];
    const wanted = text.value.toLowerCase();
    this.chosen = shown.problems
      .map((problem, i) => ({ problem, sides: sides.map((side) => [this.cells[side], shown.cells[side][i]]) }))
      .filter((one) => one.sides.some(([, own]) => own))
      .filter((one) => TESTS[verdict.value](one.sides.map(([, own]) => own).filter(Boolean), one.problem))
      .filter((one) => !wanted || contains(one, wanted));
    this.fields.shown.value = `${this.chosen.length} of ${shown.problems.length} problems`;
    this.drawn = 0;
    byId("problems").replaceChildren();
    this.more();
  }

  more() {
    const next = this.chosen.slice(this.drawn, this.drawn + PAGE);
    byId("problems").append(...next.map((one) => drawProblem(this.fields.benchmark.value, one)));
    for (const text of byId("problems").querySelectorAll(".side details")) text.open = this.fields.open.checked;
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
  seen: (own, problem) => problem.seen === true,
};

function contains({ problem, sides }, wanted) {
  const texts = sides.flatMap(([, own]) => (own ? own.texts.flatMap((one) => [one.text, one.answer]) : []));
  return [problem.question, problem.gold, ...texts].some((text) => text.toLowerCase().includes(wanted));
}

function drawProblem(benchmark, { problem, sides }) {
  const head = element("h3", {}, `${benchmark} ${problem.index} `);
  head.append(element("span", {}, "gold "), element("code", { textContent: problem.gold }));
  if (problem.gold_official !== undefined) {
    head.append(element("span", {}, " official: "), element("code", { textContent: problem.gold_official }));
  }
  if (problem.seen) head.append(element("span", {}, " in the training data"));
  const parts = [head];
  for (const src of problem.images ?? []) parts.push(element("img", { src, alt: `image of ${benchmark} ${problem.index}` }));
  parts.push(element("pre", { textContent: problem.question }));
  if (problem.prompt !== undefined) {
    const prompt = element("pre", { textContent: problem.prompt });
    parts.push(element("details", { className: "prompt" }, element("summary", { textContent: "prompt" }), prompt));
  }
  parts.push(element("div", { className: "sides" }, ...sides.filter(([, own]) => own).map(drawSide)));
  return element("article", { className: "problem" }, ...parts);
}

function drawSide([cell, own]) {
  const right = [...own.right].filter((mark) => mark === "1").length;
  const marks = element("span", { className: "marks" });
  marks.ariaHidden = "true";
  for (const mark of own.right) marks.append(element("i", { className: mark === "1" ? "right" : "" }));
  const head = element("h4", {}, cell.label ?? "", marks, element("span", { className: "muted" }, `${right} of ${own.right.length} right`));
  return element("div", { className: "side" }, head, ...own.texts.map((one) => drawText(own, one)));
}

function drawText(own, one) {
  const is = (marks) => (marks[one.sample] === "1" ? "right" : "wrong");
  const notes = [`${one.tokens} tokens`];
  if (one.end === "length") notes.push("cut by length");
  if (one.end === "too_long") notes.push("problem too long");
  if (one.late) notes.push("grading timed out");
  if (own.official && own.official[one.sample] !== own.corrected[one.sample]) {
    notes.push(`official: ${is(own.official)}`, `corrected: ${is(own.corrected)}`);
  }
  const verdict = element("span", { className: `verdict ${is(own.right)}`, textContent: is(own.right) });
  const answer = one.answer ? element("code", { textContent: one.answer }) : "(no answer)";
  const summary = element("summary", {}, verdict, " ", answer, element("span", { className: "muted" }, ` · sample ${one.sample + 1}, ${notes.join(", ")}`));
  return element("details", {}, summary, element("pre", { textContent: one.text }));
}

if (byId("payload")) new Samples(JSON.parse(byId("payload").textContent));
