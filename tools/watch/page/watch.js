"use strict";
// The page of a running chain. Values from the server are inserted as text (textContent), never as HTML.
const STATES = ["done", "running", "pending", "lost", "blocked", "failed"];
const MARKS = { done: "✓", running: "▶", pending: "", lost: "↻", blocked: "·", failed: "✕" };
const MANY = 12; // more stages than this in one cell are shown as counts
const POLL_MS = 2000;
const held = document.getElementById("held") && JSON.parse(document.getElementById("held").textContent);
let snapshot = null, chosen = null, opened = new Set();

const byId = (id) => document.getElementById(id);
function make(tag, text, options = {}) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [key, value] of Object.entries(options)) {
    if (key === "state") { element.classList.add(value); element.style.setProperty("--c", `var(--${value})`); }
    else if (key === "click") element.addEventListener("click", value);
    else if (key === "class") element.className = value;
    else element.setAttribute(key, value);
  }
  return element;
}
function duration(seconds) {
  if (seconds === null || seconds === undefined) return "unknown";
  const s = Math.max(0, Math.round(seconds)), h = Math.floor(s / 3600), m = Math.floor((s % 3600) / 60);
  if (h >= 48) return `${Math.floor(h / 24)} d ${h % 24} h`;
  return h ? `${h} h ${String(m).padStart(2, "0")} min` : m ? `${m} min ${String(s % 60).padStart(2, "0")} s` : `${s} s`;
}
const short = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : Number(value.toPrecision(3)).toString());
const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

async function poll() {
  try {
    const answer = await fetch("api/snapshot");
    const problem = answer.headers.get("X-Error");
    show(await answer.json());
    say(problem ? `The files could not be read (${problem}). Showing the last values that could.` : "");
  } catch (error) {
    say("The server does not respond. Showing its last values.");
  }
  setTimeout(poll, POLL_MS);
}
function say(text) { byId("problem").hidden = !text; byId("problem").textContent = text; }

function show(values) {
  snapshot = values;
  document.title = `${values.sums.states.done || 0}/${values.stages.length} ${values.name}`;
  byId("name").textContent = values.name;
  showSums(values); showVerdict(values.verdict); showRunning(values.stages); showGraph(values.stages); showAttention(values.stages);
  if (chosen !== null) loadStage();
}
function showSums(values) {
  const states = values.sums.states, total = values.stages.length;
  byId("chips").replaceChildren(...STATES.filter((s) => states[s]).map((s) => make("span", `${states[s]} ${s}`, { class: "chip", state: s })));
  byId("bar").replaceChildren(...STATES.filter((s) => states[s]).map((s) => {
    const part = make("span", "", { state: s }); part.style.width = `${(100 * states[s]) / total}%`; return part;
  }));
  const sums = values.sums, left = (states.running || 0) + (states.pending || 0) + (states.lost || 0);
  const parts = [`${sums.gpu_hours.toFixed(1)} GPU-hours and ${sums.stage_hours.toFixed(1)} stage-hours used`];
  if (left) parts.push(sums.left_unknown ? `time left: more than ${duration(sums.left_s)} (${count(sums.left_unknown, "stage")} of unknown length)` : `about ${duration(sums.left_s)} left`);
  parts.push(`read at ${new Date(values.time * 1000).toLocaleTimeString()}`);
  byId("sums").textContent = parts.join(" · ");
}
function showVerdict(verdict) {
  const rows = (verdict && verdict.comparisons) || [];
  byId("verdict-section").hidden = !rows.length;
  if (!rows.length) return;
  const table = make("table"), head = make("tr");
  for (const title of ["comparison", "protocol", "metric", "difference (points)", "95 % interval", "outcome"]) head.append(make("th", title));
  table.append(head);
  for (const row of rows) {
    const line = make("tr"), number = (v) => (typeof v === "number" ? (v > 0 ? "+" : "") + v.toFixed(2) : "unknown");
    line.append(make("td", `${row.first} − ${row.second}`), make("td", row.protocol), make("td", row.metric), make("td", number(row.difference), { class: "number" }),
      make("td", typeof row.low === "number" ? `${number(row.low)} to ${number(row.high)}` : "unknown", { class: "number" }),
      make("td", row.outcome, { class: row.mark }));
    table.append(line);
  }
  const sentences = [make("p", verdict.control, { class: verdict.passed === false ? "worse" : "" }), make("p", verdict.headline)];
  byId("verdict").replaceChildren(...sentences, table, make("p", `From the report written at ${new Date(verdict.time * 1000).toLocaleString()}.`, { class: "hint" }));
}
function showRunning(stages) {
  const cards = [];
  stages.forEach((row, index) => {
    if (row.state !== "running" || cards.length >= 60) return;
    const card = make("button", "", { class: "card", click: () => choose(index) });
    card.append(make("strong", row.name));
    if (row.total) { const bar = make("progress", "", { max: row.total, value: row.step || 0, "aria-label": `progress of ${row.name}` }); card.append(make("br"), bar); }
    const facts = [];
    if (row.total) facts.push(`${row.step || 0}/${row.total} ${row.unit || "steps"}`);
    if (row.rate_per_s) facts.push(row.rate_per_s >= 1 ? `${short(row.rate_per_s)}/s` : `${short(1 / row.rate_per_s)} s each`);
    if (row.eta_s !== null && row.eta_s !== undefined) facts.push(`${duration(row.eta_s)} left`);
    if (row.phase) facts.push(row.phase);
    card.append(make("div", facts.join(" · ") || "starting"));
    const now = Object.entries(row.now || {}).map(([key, value]) => (key === "data_wait" ? `waiting for data ${(100 * value).toFixed(0)} %` : `${key.replaceAll("_", " ")} ${short(value)}`));
    if (row.host) now.push(`on ${row.host}`);
    if (row.attempts > 1) now.push(`attempt ${row.attempts}`);
    if (row.silent_s > 120) now.push(`silent for ${duration(row.silent_s)}`);
    card.append(make("div", now.join(" · "), { class: "now" }));
    cards.push(card);
  });
  byId("running-section").hidden = !cards.length;
  byId("running").replaceChildren(...cards);
}
function showGraph(stages) {
  byId("legend").textContent = "Stages run from left to right: each column depends on those before it. ✓ done, ▶ running, ↻ lost (will be resumed), · blocked, ✕ failed, empty: pending.";
  const columns = [...new Set(stages.map((row) => row.column))], rows = [...new Set(stages.map((row) => row.row))];
  rows.sort((a, b) => (a === "") - (b === ""));
  const cells = new Map();
  stages.forEach((row, index) => { const key = JSON.stringify([row.row, row.column]); if (!cells.has(key)) cells.set(key, []); cells.get(key).push(index); });
  const head = make("tr"); head.append(make("th", ""));
  columns.forEach((column, place) => head.append(make("th", column, place ? { class: "arrow" } : {})));
  const lines = [head];
  for (const name of rows.slice(0, 300)) {
    const line = make("tr"); line.append(make("th", name || "all backbones"));
    for (const column of columns) {
      const cell = make("td"); fillCell(cell, cells.get(JSON.stringify([name, column])) || [], JSON.stringify([name, column])); line.append(cell);
    }
    lines.push(line);
  }
  if (rows.length > 300) { const line = make("tr"); line.append(make("td", `${rows.length - 300} more rows`)); lines.push(line); }
  byId("graph").replaceChildren(...lines);
}
function fillCell(cell, indexes, key) {
  const stages = snapshot.stages;
  if (indexes.length > MANY && !opened.has(key)) {
    for (const state of STATES) {
      const n = indexes.filter((index) => stages[index].state === state).length;
      if (n) cell.append(make("button", `${n} ${state}`, { class: "count", state, click: () => { opened.add(key); showGraph(stages); } }));
    }
    return;
  }
  for (const index of indexes.slice(0, 500)) {
    const row = stages[index], mark = MARKS[row.state] + (row.attempts > 1 ? ` ${row.attempts}` : "");
    const percent = row.state === "running" && row.total ? `${Math.floor((100 * (row.step || 0)) / row.total)}%` : mark;
    const dot = make("button", percent, { class: "dot", state: row.state, title: `${row.name}: ${row.state}`, "aria-label": `${row.name}: ${row.state}`, "data-stage": row.name, click: () => choose(index) });
    if (index === chosen) dot.classList.add("chosen");
    cell.append(dot);
  }
}
function showAttention(stages) {
  const lines = [];
  stages.forEach((row, index) => {
    if (lines.length >= 100 || !(row.state === "failed" || row.state === "lost" || (row.lost && row.state !== "done"))) return;
    const line = make("tr"), name = make("td"); name.append(make("button", row.name, { class: "count", state: row.state, click: () => choose(index) }));
    line.append(name, make("td", row.state), make("td", count(row.attempts, "attempt")), make("td", row.reason || ""), make("td", row.host || ""));
    lines.push(line);
  });
  byId("attention-section").hidden = !lines.length;
  byId("attention").replaceChildren(...lines);
}
function choose(index) {
  chosen = index; byId("search").value = ""; showGraph(snapshot.stages); loadStage().then(() => byId("stage").scrollIntoView({ block: "start", behavior: "smooth" }));
}
async function loadStage() {
  const index = chosen, search = byId("search").value;
  let values;
  if (held) values = held.details[index];
  else { const answer = await fetch(`api/stage/${index}?search=${encodeURIComponent(search)}`); if (!answer.ok) return; values = await answer.json(); }
  if (index !== chosen) return;
  byId("stage").hidden = false;
  if (!values) { byId("stage-name").textContent = `${snapshot.stages[index].name}: this static page has no details`; return; }
  byId("stage-name").textContent = values.name;
  const metrics = Object.entries(values.metrics).filter(([, value]) => typeof value === "number").map(([key, value]) => `${key} ${short(value)}`);
  byId("stage-about").textContent = [values.failed, metrics.join(", "), values.after.length ? `after ${values.after.join(", ")}` : ""].filter(Boolean).join(" · ");
  showCurves(values.curves); showAttempts(values.attempts); showLog(values.log, held ? search : "");
}
function showCurves(curves) {
  const box = byId("curves"), style = getComputedStyle(document.body), kept = new Map([...box.children].map((child) => [child.dataset.name, child]));
  const drawn = curves.filter((curve) => curve.x.length > 1 || curves.length < 6).slice(0, 12).map((curve) => {
    const plot = kept.get(curve.name) || make("div", undefined, { "data-name": curve.name });
    plot.dataset.points = curve.x.length; plot.dataset.last = curve.x[curve.x.length - 1];
    return [plot, curve];
  });
  box.replaceChildren(...drawn.map(([plot]) => plot));
  for (const [plot, curve] of drawn) {
    Plotly.react(plot, [{ x: curve.x, y: curve.y, mode: curve.x.length > 1 ? "lines" : "markers", line: { color: "#0072b2" } }], {
      title: { text: curve.name.replaceAll("<", "‹"), font: { size: 13 } }, margin: { l: 48, r: 8, t: 30, b: 34 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: style.color, size: 11 }, xaxis: { title: { text: "step" }, gridcolor: "rgba(128,128,128,.25)" }, yaxis: { gridcolor: "rgba(128,128,128,.25)" }, showlegend: false,
    }, { displayModeBar: false, responsive: true });
  }
}
function showAttempts(attempts) {
  const head = make("tr");
  for (const title of ["#", "started", "host", "job", "GPUs", "outcome", "reason", "duration"]) head.append(make("th", title));
  const lines = attempts.slice(-100).map((row) => {
    const line = make("tr");
    for (const text of [row.number, row.began ? new Date(row.began * 1000).toLocaleString() : "", row.node || row.host, row.job_id, [].concat(row.gpu || []).join(", "), row.outcome, row.reason, row.seconds ? duration(row.seconds) : ""]) line.append(make("td", text === null ? "" : text));
    return line;
  });
  byId("attempts").replaceChildren(head, ...lines);
}
function showLog(log, search) {
  const box = byId("log"), atEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  const lines = search ? log.lines.filter((line) => line.toLowerCase().includes(search.toLowerCase())) : log.lines;
  const text = lines.join("\n") || "no output yet";
  if (box.textContent !== text) { box.textContent = text; if (atEnd) box.scrollTop = box.scrollHeight; }
}
byId("search").addEventListener("input", () => chosen !== null && loadStage());
if (held) show(held.snapshot); else poll();
