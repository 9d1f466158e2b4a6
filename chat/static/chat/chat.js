// The page: one WebSocket for all rooms. No framework; what users type only ever becomes text
// (textContent), never HTML. The frames are described in chat/protocol.py.
//
// Two halves. `Stream` keeps a connection: it opens it again by itself, with growing delays, and
// asks for the rooms again. Below it, the page shows what arrives.
//
// For tests (and for whoever writes a style sheet), these stay as they are:
//   #state[data-state=connecting|open|closed]   the connection, in words inside
//   [data-room="ID"]            button of a room: joins and leaves; aria-pressed says whether in
//   [data-panel="ID"]           a joined room; its `input`, `form`, `button.leave`, `.lines`
//   .line[data-type=message|warning|alert|muted|enter|leave]   with .who, .text, time;
//                               data-mine on one's own
//   #notice[data-code=CODE]     what went wrong, until something goes right; hidden when nothing

const FIRST_DELAY = 500; // ms until the first new try; doubles
const LAST_DELAY = 20_000; // ms, the longest
const STEADY = 5_000; // ms a connection must have lasted for the delays to start over
const RETRY = 1_000; // ms until a join that was refused only for now is asked again
const ANSWER = 10_000; // ms to wait for the answer to a join before the next one is asked
const LINES_MAX = 500; // lines kept per room; older ones go

const PROBLEMS = {
  ROOM_ACCESS_DENIED: "You may not enter this room, or no longer.",
  ROOM_INVALID: "This room does not exist any more.",
  MESSAGE_TOO_LONG: "Your message is too long; it was not sent.",
  MESSAGE_EMPTY: "There was nothing to send.",
  FRAME_TOO_LONG: "Your message is too long; it was not sent.",
  TOO_FAST: "That was too fast; wait a moment and send it again.",
  TRY_AGAIN: "The server could not do that just now; try again.",
};
const FOR_NOW = new Set(["TOO_FAST", "TRY_AGAIN"]);
const OF_JOIN = new Set([...FOR_NOW, "ROOM_INVALID", "ROOM_ACCESS_DENIED", "USER_HAS_TO_LOGIN"]);

// The connection: keeps the set of rooms that the user wants to be in, and asks for them one
// after another, because an error does not say which command it answers.
class Stream {
  constructor(url, on) {
    this.url = url;
    this.on = on; // { state(name, text), frame(frame), refused(room, code), never() }
    this.wanted = new Set();
    this.queue = []; // rooms still to ask for
    this.asked = null; // the room whose join has not been answered
    this.delay = FIRST_DELAY;
    this.stopped = false;
    addEventListener("online", () => this.hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.hurry());
    // A page that the browser keeps for its Back button is frozen with its socket: close it, so
    // that the rooms hear that the user left, and come back with the page.
    addEventListener("pagehide", () => this.socket?.close());
    addEventListener("pageshow", (event) => event.persisted && this.hurry());
  }

  get open() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  connect() {
    clearTimeout(this.timer);
    this.timer = null;
    this.on.state("connecting", "Connecting…");
    const socket = (this.socket = new WebSocket(this.url));
    let opened = 0;
    socket.onopen = () => {
      opened = Date.now();
      this.on.state("open", "Connected");
      this.queue = [...this.wanted];
      this.asked = null;
      this.ask();
    };
    socket.onmessage = (event) => this.hear(JSON.parse(event.data));
    socket.onclose = () => this.lost(opened);
  }

  lost(opened) {
    clearTimeout(this.patience);
    if (this.stopped) return;
    if (opened && Date.now() - opened > STEADY) this.delay = FIRST_DELAY;
    // Somewhere between half and all of it, so that not all pages come back at one moment.
    const wait = this.delay * (0.5 + Math.random() / 2);
    this.delay = Math.min(LAST_DELAY, this.delay * 2);
    this.on.state("closed", `Not connected. Trying again in ${Math.ceil(wait / 1000)} s.`);
    this.timer = setTimeout(() => this.connect(), wait);
    if (!opened) this.on.never();
  }

  // The network is back, or somebody looks at the page: do not wait for the timer.
  hurry() {
    if (this.timer) this.connect();
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
    this.timer = null;
    this.socket?.close();
  }

  send(frame) {
    if (this.open) this.socket.send(JSON.stringify(frame));
    return this.open;
  }

  join(room) {
    this.wanted.add(room);
    if (!this.open) return; // asked for once connected
    this.queue.push(room);
    this.ask();
  }

  leave(room) {
    this.wanted.delete(room);
    this.queue = this.queue.filter((other) => other !== room);
    this.send({ command: "leave", room });
  }

  ask() {
    if (this.asked !== null || !this.queue.length || !this.open) return;
    this.asked = this.queue.shift();
    this.send({ command: "join", room: this.asked });
    this.patience = setTimeout(() => this.answered(), ANSWER);
  }

  answered() {
    clearTimeout(this.patience);
    this.asked = null;
    this.ask();
  }

  hear(frame) {
    if (this.asked !== null && OF_JOIN.has(frame.error)) return this.refused(frame.error);
    if ("leave" in frame) this.wanted.delete(frame.leave);
    if (frame.join === this.asked) this.answered();
    // The user left again before the answer came.
    if ("join" in frame && !this.wanted.has(frame.join)) return this.leave(frame.join);
    this.on.frame(frame);
  }

  // A join was refused: for now, then it is asked again; or for good.
  refused(code) {
    const room = this.asked;
    if (FOR_NOW.has(code)) {
      clearTimeout(this.patience);
      this.patience = setTimeout(() => {
        if (this.wanted.has(room)) this.queue.unshift(room);
        this.answered();
      }, RETRY);
      return;
    }
    this.wanted.delete(room);
    this.on.refused(room, code);
    this.answered();
  }
}

// The page

const chat = document.getElementById("chat");
const me = chat.dataset.user;
const types = new Map(chat.dataset.types.trim().split(" ").map((pair) => pair.split(":")));
const state = document.getElementById("state");
const notice = document.getElementById("notice");
const hint = document.getElementById("hint");
const panels = document.getElementById("panels");
const template = document.getElementById("panel");
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const joined = new Map(); // room id -> { panel, lines }
const atEnd = new WeakSet(); // the .lines that show their last line
const heights = new WeakMap(); // .lines -> px
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    heights.set(target, target.clientHeight);
    if (atEnd.has(target)) target.scrollTop = target.scrollHeight;
  }
});
let sent = null; // { input, text } of the last line, to be given back if it is refused

const button = (room) => document.querySelector(`[data-room="${CSS.escape(room)}"]`);

const stream = new Stream(
  `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${chat.dataset.stream}`,
  {
    state(name, text) {
      state.dataset.state = name;
      state.textContent = text;
    },
    refused(room, code) {
      shut(room);
      const title = button(room)?.querySelector(".title").textContent;
      complain(code, title);
    },
    never: lookForSession,
    frame(frame) {
      if ("error" in frame) complain(frame.error);
      else if ("join" in frame) show(frame.join, frame.title);
      else if ("leave" in frame) shut(frame.leave);
      else if ("msg_type" in frame) hear(frame);
    },
  },
);

// What went wrong

function complain(code, title) {
  if (code === "USER_HAS_TO_LOGIN") return loggedOut();
  const problem = PROBLEMS[code] ?? `The server did not accept that (${code}).`;
  tell(title ? `${title}: ${problem}` : problem, code);
  if (sent && /^(TOO_FAST|TRY_AGAIN|MESSAGE_|FRAME_)/.test(code)) {
    if (!sent.input.value) sent.input.value = sent.text;
    sent = null;
  }
}

function tell(text, code) {
  notice.dataset.code = code;
  notice.textContent = text;
  notice.hidden = false;
}

function calm() {
  if (notice.dataset.code === "USER_HAS_TO_LOGIN") return;
  notice.hidden = true;
  notice.textContent = "";
  delete notice.dataset.code;
}

function loggedOut() {
  stream.stop();
  state.dataset.state = "closed";
  state.textContent = "Logged out";
  tell("You are logged out. ", "USER_HAS_TO_LOGIN");
  const link = document.createElement("a");
  link.href = `${chat.dataset.login}?next=${encodeURIComponent(location.pathname)}`;
  link.textContent = "Log in again";
  notice.append(link);
}

// A browser does not tell a page why its WebSocket was refused. The page itself would now be
// answered with a redirect to the login, if the reason is that the session has ended.
async function lookForSession() {
  try {
    const options = { method: "HEAD", redirect: "manual", cache: "no-store" };
    const answer = await fetch(location.pathname, options);
    if (answer.type === "opaqueredirect") loggedOut();
  } catch {
    // The server cannot be reached: the next try is on its way.
  }
}

// Rooms

function show(room, title) {
  calm();
  button(room)?.setAttribute("aria-pressed", "true");
  const known = joined.get(room);
  if (known) {
    append(known, "muted", { text: "Connected again; what was said meanwhile is not kept." });
    return;
  }
  const panel = template.content.firstElementChild.cloneNode(true);
  const [heading, lines, form, input] = ["h2", ".lines", "form", "input"].map((name) =>
    panel.querySelector(name),
  );
  panel.dataset.panel = room;
  heading.textContent = title;
  heading.id = `title-${room}`;
  panel.setAttribute("aria-labelledby", heading.id);
  lines.setAttribute("aria-label", title);
  input.setAttribute("aria-label", `Message to ${title}`);
  input.maxLength = chat.dataset.messageMax;
  panel.querySelector(".leave").setAttribute("aria-label", `Leave ${title}`);
  panel.querySelector(".leave").addEventListener("click", () => leave(room));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    say(room, input);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") button(room)?.focus();
  });
  joined.set(room, { panel, lines });
  keepAtEnd(lines);
  panels.append(panel);
  hint.hidden = true;
  input.focus({ preventScroll: true });
  panel.scrollIntoView({ block: "nearest" });
}

function shut(room) {
  button(room)?.setAttribute("aria-pressed", "false");
  const known = joined.get(room);
  if (!known) return;
  if (known.panel.contains(document.activeElement)) button(room)?.focus();
  known.panel.remove();
  joined.delete(room);
  hint.hidden = joined.size > 0;
}

function leave(room) {
  const connected = stream.open;
  stream.leave(room);
  if (!connected) shut(room); // nobody will answer
}

function say(room, input) {
  const text = input.value;
  if (!text.trim()) return;
  if (!stream.send({ command: "send", room, message: text })) {
    tell("Not connected; your message was not sent. It stays here until you send it.", "CLOSED");
    return;
  }
  sent = { input, text };
  input.value = "";
}

function hear({ msg_type, room, username, message }) {
  const known = joined.get(room);
  const type = types.get(String(msg_type));
  if (!known || !type) return;
  const said = { enter: "came in", leave: "left" }[type] ?? message ?? "";
  append(known, type, { who: username, text: said });
  if (username === me && type === "message") calm();
}

function append({ lines }, type, { who, text }) {
  const line = document.createElement("li");
  line.className = "line";
  line.dataset.type = type;
  if (who === me && type === "message") line.dataset.mine = "";
  if (who) line.append(piece("span", "who", who));
  if (who) line.style.setProperty("--hue", hue(who));
  line.append(piece("span", "text", text), now());
  lines.append(line);
  while (lines.childElementCount > LINES_MAX) lines.firstElementChild.remove();
  if (atEnd.has(lines)) lines.scrollTop = lines.scrollHeight;
}

// Who reads the last line goes on seeing the last line, also when the panel changes its size
// (another room joined, a phone's keyboard); who has scrolled back is left alone.
function keepAtEnd(lines) {
  atEnd.add(lines);
  lines.addEventListener("scroll", () => {
    const rest = lines.scrollHeight - lines.scrollTop - lines.clientHeight;
    if (lines.clientHeight !== heights.get(lines)) return; // resized, not scrolled
    if (rest < 40) atEnd.add(lines);
    else atEnd.delete(lines);
  });
  sizes.observe(lines);
}

function piece(tag, name, text) {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  return element;
}

function now() {
  const moment = new Date();
  const element = piece("time", "when", clock.format(moment));
  element.dateTime = moment.toISOString();
  return element;
}

// A colour for a name: the same one everywhere, and readable on both grounds (chat.css).
function hue(name) {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) % 360;
  return sum;
}

// To begin with

for (const element of document.querySelectorAll("[data-room]")) {
  const { room } = element.dataset;
  element.addEventListener("click", () => {
    if (element.getAttribute("aria-pressed") === "true") leave(room);
    else stream.join(room);
  });
}

// Logging out in one window ends the others of this browser too.
const windows = new BroadcastChannel("multichat");
windows.onmessage = () => loggedOut();
document.getElementById("logout").addEventListener("submit", () => windows.postMessage("logout"));

stream.connect();
