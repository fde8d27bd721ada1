// Takes a question: a held button or Space, a recording, an example or typed words. `value` becomes one of
// {id, wav}, {id, example} and {id, text}, and "submit" tells the server. See demo/player.py.
const RATE_HZ = 16000;
const MIN_S = 0.3, MAX_HELD_S = 60, MAX_FILE_S = 300, TAIL_MS = 120;
const SAID = {
  ready: "Hold the button or Space while you speak. Esc silences the answer.",
  opening: "Opening the microphone…",
  listening: "Listening. Let go to ask.",
  sending: "Sending…",
  short: "That was too short. Hold while you speak, and let go at the end.",
  allowed: "The microphone is ready. Hold and speak.",
  denied: "The browser denied the microphone. Allow it for this page in the address bar, then hold again; or type, or "
    + "use a recording.",
  missing: "No microphone was found. Connect one and try again; or type, or use a recording.",
  taken: "The microphone cannot be opened: another program may be using it. Close that program and try again; or type, "
    + "or use a recording.",
  insecure: "Browsers give a microphone to secure pages only: open this page by https or as localhost; or type, or use "
    + "a recording.",
  unreadable: "This file cannot be read as audio. Use a WAV, FLAC, MP3 or OGG file.",
  long: `This recording is longer than ${MAX_FILE_S} seconds. Cut it and try again.`,
};
const WORKLET = `registerProcessor("vn-recorder", class extends AudioWorkletProcessor {
  process([input]) { if (input.length) this.port.postMessage(input[0].slice()); return true; }
});`;
const PROBLEMS = new Set(["short", "denied", "missing", "taken", "insecure", "unreadable", "long"]);
let held = null; // what listens: {isHeld, pieces, context, media}
let number = 0;

const isShown = () => element.isConnected && element.offsetParent !== null;
const tell = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));

function say(name) {
  const line = find("said");
  line.className = `vn-status vn-${PROBLEMS.has(name) ? "problem" : name === "listening" ? "busy" : "idle"}`;
  line.setAttribute("role", PROBLEMS.has(name) ? "alert" : "status");
  line.querySelector("span").textContent = SAID[name];
  find("mic").classList.toggle("vn-on", name === "listening");
  find("mic").setAttribute("aria-pressed", String(name === "listening"));
}

function ask(question, words, sound, asked = performance.now()) {
  const id = `${Date.now().toString(36)}-${++number}`;
  tell("vn-asked", { id, words, sound, asked });
  props.value = { id, ...question };
  trigger("submit");
}

async function press() {
  if (held) return;
  tell("vn-silence", { isEarly: true });
  if (!window.isSecureContext || !navigator.mediaDevices) return say("insecure");
  const now = (held = { isHeld: true, pieces: [], context: null, media: null });
  say("opening");
  try {
    now.media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    now.context = new AudioContext();
    const url = URL.createObjectURL(new Blob([WORKLET], { type: "text/javascript" }));
    await now.context.audioWorklet.addModule(url);
    URL.revokeObjectURL(url);
  } catch (error) {
    close(now);
    return say({ NotFoundError: "missing", NotReadableError: "taken", AbortError: "taken" }[error.name] ?? "denied");
  }
  if (!now.isHeld) { close(now); return say("allowed"); } // let go while the browser asked
  const recorder = new AudioWorkletNode(now.context, "vn-recorder");
  recorder.port.onmessage = ({ data }) => hear(now, data);
  now.context.createMediaStreamSource(now.media).connect(recorder);
  say("listening");
  now.limit = setTimeout(release, 1000 * MAX_HELD_S);
}

function hear(now, samples) {
  now.pieces.push(samples);
  if (now.pieces.length % 8 === 0) {
    const peak = now.pieces.slice(-8).reduce((most, piece) => piece.reduce((a, b) => Math.max(a, Math.abs(b)), most), 0);
    find("mic").style.setProperty("--level", Math.min(1, Math.sqrt(peak)).toFixed(2));
  }
}

function close(now) {
  clearTimeout(now.limit);
  now.media?.getTracks().forEach((track) => track.stop());
  now.context?.close();
  if (held === now) held = null;
  find("mic").style.setProperty("--level", 0);
}

async function release() {
  const now = held;
  if (!now?.isHeld) return;
  now.isHeld = false;
  if (!now.pieces.length && !now.limit) return; // `press` is still opening and will see it
  const asked = performance.now(); // from here on, the visitor waits
  await new Promise((resolve) => setTimeout(resolve, TAIL_MS));
  const rate = now.context.sampleRate;
  close(now);
  const n = now.pieces.reduce((sum, piece) => sum + piece.length, 0);
  if (n < MIN_S * rate) return say("short");
  const samples = new Float32Array(n);
  now.pieces.reduce((at, piece) => (samples.set(piece, at), at + piece.length), 0);
  say("sending");
  const local = new OfflineAudioContext(1, Math.ceil((n * RATE_HZ) / rate), RATE_HZ);
  const source = local.createBufferSource();
  source.buffer = local.createBuffer(1, n, rate);
  source.buffer.copyToChannel(samples, 0);
  source.connect(local.destination);
  source.start();
  await askSound((await local.startRendering()).getChannelData(0), "", asked);
}

async function askFile(file) {
  say("sending");
  let sound;
  try { // the browser's own decoder: the server needs none
    sound = await new OfflineAudioContext(1, 1, RATE_HZ).decodeAudioData(await file.arrayBuffer());
  } catch { return say("unreadable"); }
  if (sound.duration > MAX_FILE_S) return say("long");
  if (sound.duration < MIN_S / 3) return say("short");
  const mono = new Float32Array(sound.length);
  for (let c = 0; c < sound.numberOfChannels; c++)
    sound.getChannelData(c).forEach((value, n) => { mono[n] += value / sound.numberOfChannels; });
  await askSound(mono, file.name);
}

async function askSound(samples, words, asked = performance.now()) {
  const pcm = Int16Array.from(samples, (value) => 32767 * Math.max(-1, Math.min(1, value)));
  const blob = wavOf([pcm], RATE_HZ);
  const data = await new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.readAsDataURL(blob);
  });
  ask({ wav: data }, words, URL.createObjectURL(blob), asked);
  say("ready");
}

const mic = () => find("mic");
const isOurs = (event) => isShown() && !event.target.closest?.(
  "input, textarea, select, a, button:not([data-part=mic], [role=tab]), [contenteditable], [role=slider], summary",
);
function onKey(event) {
  if (!element.isConnected) return removeKeys();
  if (event.code !== "Space" || !isOurs(event)) return;
  event.preventDefault(); // no scrolling, and no click on what has the focus
  if (event.type === "keydown" && !event.repeat) press();
  if (event.type === "keyup") release();
}
function removeKeys() {
  for (const name of ["keydown", "keyup"]) document.removeEventListener(name, onKey, true);
}
for (const name of ["keydown", "keyup"]) document.addEventListener(name, onKey, true);
window.addEventListener("blur", release);
element.addEventListener("pointerdown", (event) => {
  if (!event.target.closest("[data-part=mic]") || event.button) return;
  event.target.setPointerCapture?.(event.pointerId);
  press();
});
for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, release);
element.addEventListener("contextmenu", (event) => { if (event.target.closest("[data-part=mic]")) event.preventDefault(); });
element.addEventListener("click", (event) => {
  const example = event.target.closest("[data-example]");
  if (!example) return;
  if (event.detail) example.blur(); // so that Space talks
  tell("vn-silence");
  say("ready");
  ask({ example: Number(example.dataset.example) }, example.textContent.trim(), null);
});
element.addEventListener("submit", (event) => {
  event.preventDefault();
  const words = find("typed").value.trim();
  if (!words) return;
  tell("vn-silence");
  say("ready");
  find("typed").value = "";
  find("send").disabled = true;
  ask({ text: words }, words, null);
});
element.addEventListener("input", () => { find("send").disabled = !find("typed").value.trim(); });
element.addEventListener("change", (event) => {
  if (event.target !== find("file") || !event.target.files.length) return;
  tell("vn-silence");
  askFile(event.target.files[0]);
  event.target.value = "";
});
say(window.isSecureContext && navigator.mediaDevices ? "ready" : "insecure");
