// Draws the two masks of Figure 2 and says what one row sees. `value`: see demo/tabs/attention.py.
const CELL = 6; // pixels of the canvas; the page scales it
const COLOURS = { text: [13, 148, 136], speech: [124, 58, 237] };
let value = null;
let row = null; // at first, the last row of the first chunk of speech

const isSeen = (mask, i, j) => mask.rows[i][j] === "1";

function draw(mask, canvas) {
  const n = value.n_text + value.n_speech;
  canvas.width = canvas.height = n * CELL;
  const brush = canvas.getContext("2d");
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++) {
      const [r, g, b] = COLOURS[j < value.n_text ? "text" : "speech"];
      const isSeenHere = isSeen(mask, i, j);
      brush.fillStyle = isSeenHere ? `rgba(${r}, ${g}, ${b}, ${i === row ? 1 : 0.55})`
        : `rgba(128, 128, 140, ${i === row ? 0.32 : 0.12})`;
      brush.fillRect(j * CELL, i * CELL, CELL - 1, CELL - 1);
    }
  brush.strokeStyle = "rgba(128, 128, 140, 0.9)";
  brush.beginPath();
  const edge = value.n_text * CELL - 0.5;
  brush.moveTo(edge, 0); brush.lineTo(edge, n * CELL); brush.moveTo(0, edge); brush.lineTo(n * CELL, edge);
  brush.stroke();
  canvas.setAttribute("aria-label", `${mask.name} mask, ${n} by ${n} positions`);
}

const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
function spans(mask, from, to) { // which of these columns the row sees: "0–5" or "none"
  const found = [];
  for (let j = from; j < to; j++) {
    if (!isSeen(mask, row, j)) continue;
    const last = found.at(-1);
    if (last && last[1] === j - from - 1) last[1] += 1;
    else found.push([j - from, j - from]);
  }
  return found.map(([a, b]) => (a === b ? `${a}` : `${a}–${b}`)).join(", ") || "none";
}

function said(mask) {
  const { n_text, n_speech } = value;
  const text = spans(mask, 0, n_text), speech = spans(mask, n_text, n_text + n_speech);
  return `text ${text} of 0–${n_text - 1}; speech ${speech}`;
}

function show() {
  value = props.value;
  if (!value) return;
  const n = value.n_text + value.n_speech;
  row = Math.min(row ?? value.n_text + value.speech_chunk - 1, n - 1);
  const slider = find("row");
  slider.max = n - 1;
  slider.value = row;
  const isText = row < value.n_text;
  const number = isText ? row : row - value.n_text;
  const chunk = Math.floor(number / value.speech_chunk) + 1;
  find("which").textContent = isText
    ? `Text row ${number}${number === 0 ? " (begin)" : ""}`
    : `Speech row ${number}${number === 0 ? " (start)" : ""}, chunk ${chunk}`;
  value.masks.forEach((mask, n) => {
    draw(mask, find(`mask-${n}`));
    find(`said-${n}`).textContent = `sees ${said(mask)}`;
  });
  slider.setAttribute("aria-valuetext", `${find("which").textContent}: ${find("said-1").textContent}`);
}

function choose(number) { row = Math.max(0, number); show(); }
element.addEventListener("input", (event) => { if (event.target === find("row")) choose(Number(event.target.value)); });
element.addEventListener("pointerdown", (event) => {
  if (event.target.tagName !== "CANVAS") return;
  const box = event.target.getBoundingClientRect();
  choose(Math.floor(((event.clientY - box.top) / box.height) * (value.n_text + value.n_speech)));
});
watch("value", show);
show();
