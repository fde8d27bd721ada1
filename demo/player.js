// Plays answers while they come, and keeps the conversation. `value`: see demo/player.py. Sound is scheduled chunk by
// chunk on the clock of one AudioContext at the answer's own rate, so that neighbours meet sample by sample.
const LEAD_S = 0.12; // how long the first chunk, or one that comes too late, is held back
const FADE_S = 0.008;
const TICK_MS = 40;
const LETTERS_PER_S = 14; // of speech, until the length of the answer is known
const PAUSE = { ",": 3, ";": 4, ":": 4, ".": 6, "?": 6, "!": 6 }; // as many letters as the pause is long
let context = null;
let turn = null; // the one that is being answered or heard
let asked = null; // what the visitor asked last: {id, words, sound, asked, isWaiting}
let cleared = 0; // runs up to this one are of a conversation that is over
let ticking = null;

const seconds = (value) => (value < 1 ? `${Math.round(1000 * value)} ms` : `${value.toFixed(2)} s`);

function contextAt(rate) {
  if (context?.sampleRate !== rate) {
    context?.close();
    context = new AudioContext({ sampleRate: rate });
  }
  if (context.state === "suspended") context.resume();
  return context;
}

function newTurn(value) {
  silence();
  const isAsked = asked?.id === value.id;
  if (isAsked) asked.isWaiting = false;
  const node = make("article", "vn-turn");
  const question = make("p", "vn-asked", (isAsked && asked.words) || value.question || "Your question");
  if (value.note) question.append(make("small", "", value.note));
  node.append(question);
  if (isAsked && asked.sound) node.append(audio(asked.sound, "The question"));
  const text = make("p", "vn-said");
  const chips = make("div", "vn-chips");
  node.append(text, chips);
  find("turns").append(node);
  find("empty").hidden = true;
  const now = isAsked ? asked.asked : performance.now();
  turn = { run: value.run, node, text, chips, asked: now, rate: value.rate, parts: [], sources: [], gain: null,
    first: 0, next: 0, n: 0, underruns: 0, heardAt: null, letters: [], isDone: false, isSilenced: false };
  node.scrollIntoView({ block: "nearest", behavior: "smooth" });
}

function audio(url, label) {
  const node = make("audio");
  Object.assign(node, { controls: true, src: url, preload: "metadata" });
  node.setAttribute("aria-label", label);
  return node;
}

function schedule(text) {
  const pcm = new Int16Array(bytesOf(text).buffer);
  turn.parts.push(pcm);
  if (!pcm.length || turn.isSilenced) return;
  const clock = contextAt(turn.rate);
  if (!turn.gain) {
    turn.gain = clock.createGain();
    turn.gain.connect(clock.destination);
  }
  const buffer = clock.createBuffer(1, pcm.length, turn.rate);
  buffer.getChannelData(0).set(Float32Array.from(pcm, (value) => value / 32767));
  const source = clock.createBufferSource();
  source.buffer = buffer;
  source.connect(turn.gain);
  const soonest = Math.ceil(clock.currentTime * turn.rate);
  if (turn.next <= soonest) { // the first chunk, or one that comes too late
    if (turn.n) turn.underruns += 1;
    turn.next = soonest + Math.round(LEAD_S * turn.rate);
    if (!turn.n) turn.first = turn.next;
  }
  source.start(turn.next / turn.rate);
  turn.sources.push(source);
  turn.next += pcm.length;
  turn.n += pcm.length;
}

function isSounding() {
  return Boolean(turn?.gain) && !turn.isSilenced && context.currentTime < turn.next / turn.rate;
}

function silence(how = "stopped") { // at once: the server's part of stopping comes after
  if (!turn || turn.isSilenced || (turn.isDone && !isSounding())) return false;
  const { gain, sources } = turn;
  const isMaking = !turn.isDone;
  turn.isSilenced = true;
  if (gain) {
    gain.gain.setValueAtTime(1, context.currentTime);
    gain.gain.linearRampToValueAtTime(0, context.currentTime + FADE_S);
    setTimeout(() => { sources.forEach((source) => source.stop()); gain.disconnect(); }, 5000 * FADE_S);
  }
  finish(how);
  return isMaking;
}

function stop() { // an answer, or a question that waits for the model
  const isMaking = silence();
  if (isMaking || asked?.isWaiting) trigger("stop");
  if (asked) asked.isWaiting = false;
  draw();
}

function take(question) {
  if (asked?.isWaiting && asked.sound) URL.revokeObjectURL(asked.sound); // it will never be shown
  asked = { ...question, isWaiting: true };
  draw();
}

function clear(run) {
  silence();
  cleared = run;
  turn = null;
  if (asked) asked.isWaiting = false;
  for (const node of element.querySelectorAll("audio")) URL.revokeObjectURL(node.src);
  find("turns").replaceChildren();
  find("empty").hidden = false;
}

function finish(how) {
  if (turn.isFinished) return;
  turn.isFinished = true;
  turn.node.classList.add(`vn-${how}`);
  if (turn.parts.some((part) => part.length))
    turn.text.after(audio(URL.createObjectURL(wavOf(turn.parts, turn.rate)), "The answer"));
  if (how === "stopped") turn.chips.prepend(make("span", "vn-cut", "stopped"));
}

function showText(text) { // one span a word, and how many letters' time is over at its end
  if (text === turn.shown) return;
  turn.shown = text;
  let total = 0;
  turn.letters = [];
  turn.text.replaceChildren(...(text.match(/\s*\S+/g) || []).map((word) => {
    total += word.length + (PAUSE[word.at(-1)] || 0);
    turn.letters.push(total);
    return make("span", "", word);
  }));
}

function light(played, length) { // by the lengths of the words: a guess, good to a syllable or two
  const total = turn.letters.at(-1) || 0;
  const gone = turn.isDone && length ? (total * played) / length : LETTERS_PER_S * played;
  let before = 0;
  turn.letters.forEach((end, n) => {
    turn.text.children[n].classList.toggle("vn-spoken", played > 0 && gone > before);
    before = end;
  });
}

function chip(name, value, hint) {
  let node = turn.chips.querySelector(`[data-chip="${name}"]`);
  if (!node) {
    node = make("span");
    node.dataset.chip = name;
    node.title = hint;
    turn.chips.append(node);
  }
  if (node.textContent !== `${name} ${value}`) node.textContent = `${name} ${value}`;
}

function draw() {
  const isLive = Boolean(turn) && !turn.isSilenced && (!turn.isDone || isSounding());
  find("stop").disabled = !isLive && !asked?.isWaiting;
  element.querySelector(".vn-player").classList.toggle("vn-live", isLive);
  if (!turn) return;
  const length = turn.n / turn.rate;
  const now = turn.gain ? Math.max(0, context.currentTime) : 0;
  const ahead = turn.gain && !turn.isSilenced ? Math.max(0, turn.next / turn.rate - Math.max(now, turn.first / turn.rate)) : 0;
  if (turn.gain && turn.heardAt === null && !turn.isSilenced && now >= turn.first / turn.rate) {
    turn.heardAt = performance.now() - 1000 * (now - turn.first / turn.rate - (context.outputLatency || 0));
    chip("first sound here", seconds((turn.heardAt - turn.asked) / 1000),
      "In this browser, from the end of the question to the first sound");
  }
  if (!turn.isSilenced && turn.heardAt !== null) light(Math.max(0, length - ahead), length);
  find("buffer").textContent = seconds(ahead);
  find("gauge").style.width = `${Math.min(100, 50 * ahead)}%`;
  find("underruns").textContent = String(turn.underruns);
  find("played").textContent = `${Math.max(0, length - ahead).toFixed(1)} of ${length.toFixed(1)} s`;
  if (turn.isDone && !turn.isSilenced && !isSounding()) finish("heard");
  if (!isLive) { clearInterval(ticking); ticking = null; }
}

function show() {
  const value = props.value;
  if (value?.cleared > cleared) clear(value.cleared);
  if (!value?.run) return draw();
  if (value.run <= cleared || value.run < turn?.run) return; // a late word of an answer that was stopped
  if (value.run !== turn?.run) newTurn(value);
  if (turn.isSilenced) return;
  value.chunks.slice(turn.parts.length).forEach(schedule);
  showText(value.text);
  for (const [name, text, hint] of value.chips) chip(name, text, hint);
  if (value.isDone && !turn.isDone) {
    if (value.problem) silence("failed");
    turn.isDone = true;
  }
  ticking ??= setInterval(draw, TICK_MS);
  draw();
}

// A context that is opened by a gesture may sound at once, whenever the first chunk comes.
const rate = Number(element.querySelector(".vn-player").dataset.rate);
const open = () => { if (element.isConnected) contextAt(turn?.rate || rate); };
for (const name of ["pointerdown", "keydown"]) document.addEventListener(name, open, { capture: true, once: true });
document.addEventListener("vn-asked", (event) => { if (element.isConnected) take(event.detail); });
// A question that is already on its way ends the answer on the server by itself; one that is still spoken does not yet.
document.addEventListener("vn-silence", (event) => {
  if (!element.isConnected) return;
  if (event.detail?.isEarly) stop();
  else silence();
  draw();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && element.isConnected) stop(); });
element.addEventListener("click", (event) => { if (event.target.closest("[data-part=stop]")) stop(); });
element.addEventListener("play", (event) => { // one voice at a time
  stop();
  for (const other of element.querySelectorAll("audio")) if (other !== event.target) other.pause();
}, true);
watch("value", show);
show();
