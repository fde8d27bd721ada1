// Draws the speech tokens of one run beside its sound. `value`: see demo/timeline.py.
const COLOURS = 6; // classes vn-head-0 .. vn-head-5, then again from the first
const STEPS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 };
let run = null;
let bars = [];
let chosen = 0;
let measure = "entropy";
let url = null;

const headName = (head) => `head ${head}`;

function draw() {
  const highest = measure === "max_prob" ? 1 : Math.max(...run.tokens.map((token) => token.entropy), 1e-9);
  const height = (token) => `${Math.max(2, (100 * token[measure]) / highest)}%`;
  bars.forEach((bar, n) => bar.style.setProperty("--height", height(run.tokens[n])));
  find("scale").textContent = measure === "max_prob" ? "Height: maximum probability, 0 to 1"
    : `Height: entropy, 0 to ${highest.toFixed(1)} nats`;
  for (const button of element.querySelectorAll("[data-measure]"))
    button.setAttribute("aria-pressed", String(button.dataset.measure === measure));
}

function choose(n, isSeeking) {
  if (!run.tokens.length) return;
  bars[chosen].classList.remove("vn-now");
  chosen = Math.min(Math.max(n, 0), bars.length - 1);
  const strip = find("strip"), bar = bars[chosen], token = run.tokens[chosen];
  bar.classList.add("vn-now");
  const left = bar.offsetLeft - strip.offsetLeft;
  if (left < strip.scrollLeft + 20 || left > strip.scrollLeft + strip.clientWidth - 40)
    strip.scrollLeft = left - strip.clientWidth / 3;
  if (isSeeking) find("audio").currentTime = (chosen + 0.01) / run.tokens_per_s;
  const time = `${(chosen / run.tokens_per_s).toFixed(2)} s`;
  const facts = `token ${chosen + 1} of ${bars.length}, ${time}, ${headName(token.head)}`;
  strip.setAttribute("aria-valuenow", chosen + 1);
  strip.setAttribute("aria-valuetext", facts);
  find("facts").textContent = `Unit ${token.token} · ${facts} · entropy ${token.entropy.toFixed(2)} nats · `
    + `maximum probability ${token.max_prob.toFixed(2)}`;
  find("candidates").replaceChildren(...candidates(token));
}

function candidates(token) {
  if (!token.candidates.length)
    return [make("p", "vn-note", "This run was recorded without candidates: only its statistics are known.")];
  const rows = [...token.candidates];
  if (!rows.some(([unit]) => unit === token.token)) rows.push([token.token, Math.exp(token.logprob)]);
  return rows.map(([unit, prob], rank) => {
    const row = make("div", unit === token.token ? "vn-candidate vn-taken" : "vn-candidate");
    const track = make("span", "vn-track");
    const fill = make("i", "");
    fill.style.width = `${100 * prob}%`;
    track.append(fill);
    const name = rank < token.candidates.length ? `${rank + 1}.` : "…";
    row.append(make("span", "vn-rank", name), make("span", "vn-unit", unit), track);
    row.append(make("span", "vn-share", percent(prob)));
    return row;
  });
}

function show() {
  run = props.value;
  if (url) URL.revokeObjectURL(url);
  url = null;
  element.hidden = !run;
  if (!run) return;
  url = URL.createObjectURL(new Blob([bytesOf(run.wav)], { type: "audio/wav" }));
  find("audio").src = url;
  chosen = 0;
  bars = run.tokens.map((token) => make("i", `vn-bar-${token.head} vn-head-${token.head % COLOURS}`));
  find("strip").replaceChildren(...bars);
  find("strip").setAttribute("aria-valuemax", bars.length);
  const heads = [...new Set(run.tokens.map((token) => token.head))].sort((a, b) => a - b);
  find("legend").replaceChildren(...heads.map((head) => make("span", `vn-head-${head % COLOURS}`, headName(head))));
  draw();
  choose(0, false);
}

function follow() {
  const audio = find("audio");
  if (!run || !audio) return;
  choose(Math.floor(audio.currentTime * run.tokens_per_s), false);
  if (!audio.paused && !audio.ended) requestAnimationFrame(follow);
}

element.addEventListener("click", (event) => {
  const bar = bars.indexOf(event.target);
  if (bar >= 0) choose(bar, true);
  const button = event.target.closest("[data-measure]");
  if (button) { measure = button.dataset.measure; draw(); }
});
element.addEventListener("keydown", (event) => {
  if (event.target !== find("strip")) return;
  const goals = { Home: 0, End: bars.length - 1 };
  const goal = event.key in STEPS ? chosen + STEPS[event.key] : goals[event.key];
  if (goal === undefined) return;
  event.preventDefault();
  choose(goal, true);
});
element.addEventListener("play", () => requestAnimationFrame(follow), true); // media events do not bubble
element.addEventListener("seeked", follow, true);
watch("value", show);
show();
