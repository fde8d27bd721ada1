// Draws the talker's attention over text, every layer and head, and one of them large. `value`: demo/tabs/attention.py.
const SMALL = 2, LINE = 20; // pixels
let value = null;
let weights = null; // Float32Array, [layer][head][row][text]
let seen = null; // Uint8Array, [row][text]
let chosen = [0, 0];
let row = 0;

const at = (layer, head, r, t) => weights[((layer * value.n_heads + head) * value.n_rows + r) * value.pieces.length + t];

function paint(canvas, layer, head, width, height) {
  const [n, m] = [value.n_rows, value.pieces.length];
  canvas.width = n * width;
  canvas.height = m * height;
  const brush = canvas.getContext("2d");
  for (let r = 0; r < n; r++)
    for (let t = 0; t < m; t++) {
      const weight = at(layer, head, r, t); // its square root, so that small weights show
      brush.fillStyle = seen[r * m + t] ? `rgba(13, 148, 136, ${Math.sqrt(weight).toFixed(3)})` : "rgba(128, 128, 140, 0.25)";
      brush.fillRect(r * width, t * height, width, height);
    }
}

function overview() {
  const table = find("heads");
  table.replaceChildren();
  table.style.gridTemplateColumns = `repeat(${Math.min(value.n_heads, 8)}, minmax(52px, 1fr))`;
  for (let layer = 0; layer < value.n_layers; layer++)
    for (let head = 0; head < value.n_heads; head++) {
      const button = make("button", "vn-head");
      button.type = "button";
      Object.assign(button.dataset, { layer, head });
      const canvas = make("canvas");
      paint(canvas, layer, head, SMALL, SMALL);
      const score = value.scores[layer][head];
      button.append(canvas, make("span", "", `${layer + 1}.${head + 1} · ${score.toFixed(2)}`));
      button.setAttribute("aria-label", `Layer ${layer + 1}, head ${head + 1}, monotonic alignment ${score.toFixed(2)}`);
      table.append(button);
    }
}

function large() {
  const [layer, head] = chosen;
  const score = value.scores[layer][head];
  for (const button of element.querySelectorAll(".vn-head"))
    button.setAttribute("aria-pressed", String(+button.dataset.layer === layer && +button.dataset.head === head));
  find("title").textContent = `Layer ${layer + 1}, head ${head + 1}: monotonic alignment ${score.toFixed(2)} `
    + `(evenly spread attention: ${value.chance.toFixed(2)})`;
  const canvas = find("map");
  paint(canvas, layer, head, 4, LINE);
  canvas.style.height = `${LINE * value.pieces.length}px`;
  canvas.setAttribute("aria-label", `Attention of layer ${layer + 1}, head ${head + 1}: text down, speech to the right`);
  inspect();
}

function inspect() {
  const [layer, head] = chosen;
  row = Math.min(row, value.n_rows - 1);
  find("row").value = row;
  const time = (row * value.stride) / value.tokens_per_s;
  const shares = value.pieces.map((_, t) => at(layer, head, row, t));
  const total = shares.reduce((a, b) => a + b, 0);
  find("which").textContent = `Speech row ${row}${row === 0 ? " (start)" : ` (${time.toFixed(2)} s)`}: `
    + `${percent(total)} on text, ${percent(1 - total)} on speech`;
  const most = Math.max(...shares, 1e-9);
  find("labels").replaceChildren(...value.pieces.map((piece, t) => {
    const isOpen = seen[row * value.pieces.length + t];
    const line = make("div", isOpen ? "vn-piece" : "vn-piece vn-shut");
    line.style.setProperty("--share", isOpen ? shares[t] / most : 0);
    line.title = isOpen ? percent(shares[t]) : "forbidden: exactly 0";
    line.append(make("span", "", piece.trim() || "␣"), make("small", "", isOpen ? percent(shares[t]) : "shut"));
    return line;
  }));
  find("cursor").style.left = `${(100 * (row + 0.5)) / value.n_rows}%`;
}

function show() {
  value = props.value;
  element.hidden = !value;
  if (!value) return;
  weights = new Float32Array(bytesOf(value.weights).buffer);
  seen = bytesOf(value.visible);
  const best = value.scores.flatMap((heads, layer) => heads.map((score, head) => [score, layer, head]))
    .sort((a, b) => b[0] - a[0])[0];
  chosen = [best[1], best[2]];
  row = Math.floor(value.n_rows / 2);
  find("row").max = value.n_rows - 1;
  overview();
  large();
}

element.addEventListener("click", (event) => {
  const button = event.target.closest(".vn-head");
  if (button) { chosen = [+button.dataset.layer, +button.dataset.head]; large(); }
});
element.addEventListener("input", (event) => { if (event.target === find("row")) { row = +event.target.value; inspect(); } });
element.addEventListener("pointerdown", (event) => {
  if (event.target !== find("map")) return;
  const box = event.target.getBoundingClientRect();
  row = Math.floor(((event.clientX - box.left) / box.width) * value.n_rows);
  inspect();
});
watch("value", show);
show();
