// The page: one WebSocket for all rooms, without a framework. Text that users type is only ever
// inserted as text (textContent), never as HTML. The frames are described in chat/protocol.py.
//
// `Stream` maintains the connection: it reconnects with growing delays and rejoins the rooms. The
// rest of the file shows the frames that arrive.
//
// Tests and style sheets rely on these elements:
//   #state[data-state=connecting|open|closed]   the connection, described by its text
//   [data-room="ID"]            button that joins or leaves a room; aria-pressed if joined
//   [data-panel="ID"]           a joined room; its `input`, `form`, `button.leave`, `.lines`
//   .line[data-type=message|warning|alert|muted|enter|leave]   with .who, .text, time;
//                               data-mine on the user's own
//   #notice[data-code=CODE]     the last error, until a command succeeds; hidden if there is none

const FIRST_DELAY = 500; // ms before the first reconnection; doubled each time
const LONGEST_DELAY = 20_000; // ms
const STABLE = 5_000; // ms that a connection must last to reset the delay
const RETRY = 1_000; // ms before a join that was refused temporarily is repeated
const ANSWER = 10_000; // ms to wait for the answer to a join before the next one is sent
const LINES_MAX = 500; // lines kept per room; older ones are removed

const PROBLEMS = {
  ROOM_ACCESS_DENIED: "You may not enter this room.",
  ROOM_INVALID: "This room no longer exists.",
  MESSAGE_TOO_LONG: "Your message is too long; it was not sent.",
  MESSAGE_EMPTY: "Your message is empty; it was not sent.",
  FRAME_TOO_LONG: "Your message is too long; it was not sent.",
  TOO_FAST: "You are sending too fast; wait a moment and try again.",
  TRY_AGAIN: "The server is temporarily unavailable; try again.",
};
const TEMPORARY = new Set(["TOO_FAST", "TRY_AGAIN"]);
const JOIN_ERRORS = new Set([...TEMPORARY, "ROOM_INVALID", "ROOM_ACCESS_DENIED", "USER_HAS_TO_LOGIN"]);

// The connection. It keeps the set of rooms that the user wants to be in, and joins them one after
// another, because an error does not tell which command it answers.
class Stream {
  constructor(url, on) {
    this.url = url;
    this.on = on; // { state(name, text), frame(frame), refused(room, code), failed() }
    this.wanted = new Set();
    this.queue = []; // rooms to join
    this.pending = null; // the room whose join has not been answered
    this.delay = FIRST_DELAY;
    this.stopped = false;
    addEventListener("online", () => this.reconnectNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.reconnectNow());
    // A page in the back/forward cache is frozen together with its socket: close it, so that the
    // rooms are notified, and reconnect when the page is shown again.
    addEventListener("pagehide", () => this.socket?.close());
    addEventListener("pageshow", (event) => event.persisted && this.reconnectNow());
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
      this.pending = null;
      this.joinNext();
    };
    socket.onmessage = (event) => this.receive(JSON.parse(event.data));
    socket.onclose = () => this.closed(opened);
  }

  closed(opened) {
    clearTimeout(this.answerTimer);
    if (this.stopped) return;
    if (opened && Date.now() - opened > STABLE) this.delay = FIRST_DELAY;
    // A random part, from half to all of it, so that pages do not reconnect at the same moment.
    const wait = this.delay * (0.5 + Math.random() / 2);
    this.delay = Math.min(LONGEST_DELAY, this.delay * 2);
    this.on.state("closed", `Not connected. Reconnecting in ${Math.ceil(wait / 1000)} s.`);
    this.timer = setTimeout(() => this.connect(), wait);
    if (!opened) this.on.failed();
  }

  // The network is back, or the page has become visible: do not wait for the timer.
  reconnectNow() {
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
    if (!this.open) return; // joined when connected
    this.queue.push(room);
    this.joinNext();
  }

  leave(room) {
    this.wanted.delete(room);
    this.queue = this.queue.filter((other) => other !== room);
    this.send({ command: "leave", room });
  }

  joinNext() {
    if (this.pending !== null || !this.queue.length || !this.open) return;
    this.pending = this.queue.shift();
    this.send({ command: "join", room: this.pending });
    this.answerTimer = setTimeout(() => this.finishJoin(), ANSWER);
  }

  finishJoin() {
    clearTimeout(this.answerTimer);
    this.pending = null;
    this.joinNext();
  }

  receive(frame) {
    if (this.pending !== null && JOIN_ERRORS.has(frame.error)) return this.refuse(frame.error);
    if ("leave" in frame) this.wanted.delete(frame.leave);
    if (frame.join === this.pending) this.finishJoin();
    // The user left again before the answer came.
    if ("join" in frame && !this.wanted.has(frame.join)) return this.leave(frame.join);
    this.on.frame(frame);
  }

  // A join was refused: repeat it if the reason is temporary.
  refuse(code) {
    const room = this.pending;
    if (TEMPORARY.has(code)) {
      clearTimeout(this.answerTimer);
      this.answerTimer = setTimeout(() => {
        if (this.wanted.has(room)) this.queue.unshift(room);
        this.finishJoin();
      }, RETRY);
      return;
    }
    this.wanted.delete(room);
    this.on.refused(room, code);
    this.finishJoin();
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
const atEnd = new WeakSet(); // the .lines that are scrolled to the end
const heights = new WeakMap(); // .lines -> px
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    heights.set(target, target.clientHeight);
    if (atEnd.has(target)) target.scrollTop = target.scrollHeight;
  }
});
let sent = null; // { input, text } of the last message, restored if it is refused

const button = (room) => document.querySelector(`[data-room="${CSS.escape(room)}"]`);

const stream = new Stream(
  `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${chat.dataset.stream}`,
  {
    state(name, text) {
      state.dataset.state = name;
      state.textContent = text;
    },
    refused(room, code) {
      closePanel(room);
      const title = button(room)?.querySelector(".title").textContent;
      showError(code, title);
    },
    failed: checkSession,
    frame(frame) {
      if ("error" in frame) showError(frame.error);
      else if ("join" in frame) openPanel(frame.join, frame.title);
      else if ("leave" in frame) closePanel(frame.leave);
      else if ("msg_type" in frame) showLine(frame);
    },
  },
);

// Errors

function showError(code, title) {
  if (code === "USER_HAS_TO_LOGIN") return loggedOut();
  const problem = PROBLEMS[code] ?? `The server refused the command (${code}).`;
  showNotice(title ? `${title}: ${problem}` : problem, code);
  if (sent && /^(TOO_FAST|TRY_AGAIN|MESSAGE_|FRAME_)/.test(code)) {
    if (!sent.input.value) sent.input.value = sent.text;
    sent = null;
  }
}

function showNotice(text, code) {
  notice.dataset.code = code;
  notice.textContent = text;
  notice.hidden = false;
}

function clearNotice() {
  if (notice.dataset.code === "USER_HAS_TO_LOGIN") return;
  notice.hidden = true;
  notice.textContent = "";
  delete notice.dataset.code;
}

function loggedOut() {
  stream.stop();
  state.dataset.state = "closed";
  state.textContent = "Logged out";
  showNotice("You are logged out. ", "USER_HAS_TO_LOGIN");
  const link = document.createElement("a");
  link.href = `${chat.dataset.login}?next=${encodeURIComponent(location.pathname)}`;
  link.textContent = "Log in again";
  notice.append(link);
}

// Browsers do not tell a page why its WebSocket was refused. If the session has expired, a request
// for the page itself is redirected to the login.
async function checkSession() {
  try {
    const options = { method: "HEAD", redirect: "manual", cache: "no-store" };
    const answer = await fetch(location.pathname, options);
    if (answer.type === "opaqueredirect") loggedOut();
  } catch {
    // The server is not reachable; the stream will reconnect.
  }
}

// Rooms

function openPanel(room, title) {
  clearNotice();
  button(room)?.setAttribute("aria-pressed", "true");
  const known = joined.get(room);
  if (known) {
    append(known, "muted", { text: "Reconnected. Messages sent in the meantime are not shown." });
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

function closePanel(room) {
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
  if (!connected) closePanel(room); // there will be no answer
}

function say(room, input) {
  const text = input.value;
  if (!text.trim()) return;
  if (!stream.send({ command: "send", room, message: text })) {
    showNotice("Not connected; your message was not sent. It is kept until you send it.", "CLOSED");
    return;
  }
  sent = { input, text };
  input.value = "";
}

function showLine({ msg_type, room, username, message }) {
  const known = joined.get(room);
  const type = types.get(String(msg_type));
  if (!known || !type) return;
  const said = { enter: "joined", leave: "left" }[type] ?? message ?? "";
  append(known, type, { who: username, text: said });
  if (username === me && type === "message") clearNotice();
}

function append({ lines }, type, { who, text }) {
  const line = document.createElement("li");
  line.className = "line";
  line.dataset.type = type;
  if (who === me && type === "message") line.dataset.mine = "";
  if (who) line.append(createElement("span", "who", who));
  if (who) line.style.setProperty("--hue", hue(who));
  line.append(createElement("span", "text", text), timestamp());
  lines.append(line);
  while (lines.childElementCount > LINES_MAX) lines.firstElementChild.remove();
  if (atEnd.has(lines)) lines.scrollTop = lines.scrollHeight;
}

// Keep the last line visible when lines arrive or the panel is resized (another room is joined, a
// phone's keyboard opens), unless the user has scrolled back.
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

function createElement(tag, name, text) {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  return element;
}

function timestamp() {
  const moment = new Date();
  const element = createElement("time", "when", clock.format(moment));
  element.dateTime = moment.toISOString();
  return element;
}

// A colour for a name: the same everywhere, and readable on both backgrounds (chat.css).
function hue(name) {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) % 360;
  return sum;
}

// Start

for (const element of document.querySelectorAll("[data-room]")) {
  const { room } = element.dataset;
  element.addEventListener("click", () => {
    if (element.getAttribute("aria-pressed") === "true") leave(room);
    else stream.join(room);
  });
}

// Logging out in one window logs out all windows of this browser.
const otherWindows = new BroadcastChannel("multichat");
otherWindows.onmessage = () => loggedOut();
document.getElementById("logout").addEventListener("submit", () => otherWindows.postMessage("logout"));

stream.connect();
