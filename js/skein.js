/**
 * A client for agents of Skein: one ES module without dependencies, for pages with or without a build step.
 *
 * It has the shape of Cloudflare's `AgentClient` (package `agents`), so that code moves over, and speaks the same frames. Every
 * `AgentClient` is one WebSocket to one agent, which it opens again whenever it is lost, until it is closed for good.
 *
 * @module skein
 */

/** How long a call waits for its answer unless it says otherwise. Streams wait for ever. */
export const DEFAULT_CALL_TIMEOUT_MS = 30_000;

const defaults = {
  minReconnectionDelay: 500,
  maxReconnectionDelay: 10_000,
  connectionTimeout: 10_000,
  maxRetries: Infinity,
  maxEnqueuedMessages: 256,
  maxEnqueuedBytes: 1 << 20,
  pingInterval: 30_000,
  pingTimeout: 5_000,
};

/** After so long a connection has proved itself: if it breaks now, the first attempt comes soon again. */
const STABLE_MS = 5_000;
/** How long what waits to be sent waits for a greeting of the agent. Connections that were made silent get none. */
const GREETING_MS = 1_000;

const CONNECTING = 0, OPEN = 1, CLOSING = 2, CLOSED = 3;

/** The connection has ended for good: the server has closed it so, or all attempts are used up. */
export class AgentConnectionError extends Error {
  constructor({ code, reason = "", wasClean = false }) {
    super(`Agent connection closed: ${reason || `WebSocket closed with code ${code}`}`);
    this.name = "AgentConnectionError";
    this.code = code;
    this.reason = reason;
    this.wasClean = wasClean;
  }
}

/** A call has failed. What is known of it, `outcome` says: see skein.d.ts. */
export class AgentCallError extends Error {
  constructor(message, method, outcome) {
    super(message);
    this.name = "AgentCallError";
    this.method = method;
    this.outcome = outcome;
  }
}

/** As much waits to be sent as may: there is no connection, or it is too slow. */
export class AgentQueueFullError extends Error {
  constructor(waiting) {
    super(`Too much waits to be sent: ${waiting}`);
    this.name = "AgentQueueFullError";
  }
}

/** Says whether a close is final: clients do not come back after it. */
export function isTerminalCloseEvent({ code }) {
  return code === 1008 || (code >= 4000 && code <= 4999);
}

/** The name of a class as paths have it: FlightDesk is flight-desk. */
function kebab(name) {
  return name
    .replace(/([\p{Ll}\p{Nd}])(\p{Lu})/gu, "$1-$2")
    .replace(/(\p{Lu})(\p{Lu}\p{Ll})/gu, "$1-$2")
    .replace(/_/g, "-")
    .toLowerCase();
}

/** An id that nobody else has. crypto.randomUUID is not there on pages without TLS. */
function newID() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

function isLocal(host) {
  return /^(localhost|127\.|10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|\[::1\])/.test(host);
}

/** The address of an agent, without its query. */
function addressOf({ agent, name = "default", host, protocol, basePath, path }) {
  const page = globalThis.location;
  if (!host && !page?.host) throw new TypeError("host is missing: there is no page to take it from");
  const given = /^(https?|wss?):\/\//.exec(host ?? "");
  const bare = (host ?? page.host).replace(/^\w+:\/\//, "").replace(/\/$/, "");
  const isSecure = given ? /s$/.test(given[1]) : bare === page?.host ? page.protocol === "https:" : !isLocal(bare);
  const way = basePath ? basePath.replace(/^\/+|\/+$/g, "") : `agents/${kebab(agent)}/${encodeURIComponent(name)}`;
  return `${protocol ?? (isSecure ? "wss" : "ws")}://${bare}/${way}${path ? `/${path}` : ""}`;
}

/** What code of the page throws must not stop the frames that follow. */
function guard(fn, ...args) {
  if (!fn) return;
  try {
    fn(...args);
  } catch (error) {
    queueMicrotask(() => { throw error; });
  }
}

/** A frame that is none of the protocol's is a message. */
function parse(data) {
  if (typeof data !== "string" || data[0] !== "{") return undefined;
  try {
    return JSON.parse(data);
  } catch {
    return undefined;
  }
}

/** Browsers take only some codes, and short reasons. */
function closeSocket(ws, { code, reason }) {
  try {
    ws.close(code, reason);
  } catch {
    ws.close();
  }
}

const sizeOf = (data) => (typeof data === "string" ? data.length : data.byteLength);

/** A connection to an agent. Everything that can be said about it is in skein.d.ts. */
export class AgentClient extends EventTarget {
  static CONNECTING = CONNECTING;
  static OPEN = OPEN;
  static CLOSING = CLOSING;
  static CLOSED = CLOSED;

  state = undefined;
  identity = null;
  identified = false;
  connectionError = null;

  #options;
  #address;
  #ws = null;
  #url = "";
  #ended = true; // no attempt is under way, and none will be made
  #greeted = false; // what waits was sent
  #follows = null; // the identity, while the state that comes with it is on its way
  #served; // the state that the agent has sent last
  #own = null; // {id, state, isOvertaken}: the state that was set here last, until it is the agent's
  #lastState = 0;
  #queue = []; // {data, kind, call}: what waits to be sent, in its order
  #calls = new Map(); // by id: what waits for an answer
  #lastCall = 0;
  #attempts = 0; // since the last connection that has proved itself
  #timers = new Map(); // by what they are for
  #watched = null; // ends the listening to the page
  #ready;

  constructor(options) {
    super();
    this.#options = { ...defaults, ...options };
    this.#address = addressOf(options);
    this.id = options.id ?? newID();
    this.agent = options.agent && kebab(options.agent);
    this.name = options.name ?? "default";
    this.call = this.call.bind(this);
    this.stub = new Proxy({}, {
      // A stub is no promise, and is looked at by consoles and by JSON.
      get: (_, method) => typeof method !== "string" || method === "then" || method === "toJSON"
        ? undefined : (...args) => this.call(method, args),
    });
    this.#expectReady();
    this.#start();
  }

  /** Resolves when the agent has taken the connection, and its state, if it has one, is here. @type {Promise<void>} */
  get ready() { return this.#ready.promise; }
  /** The address of the last attempt. @type {string} */
  get url() { return this.#url; }
  /** One of CONNECTING, OPEN, CLOSING and CLOSED. @type {number} */
  get readyState() { return this.#ws?.readyState ?? (this.#ended ? CLOSED : CONNECTING); }
  /** How many bytes wait to be sent. @type {number} */
  get bufferedAmount() { return this.#queued() + (this.#ws?.bufferedAmount ?? 0); }

  /**
   * Sets the state, here at once and then there. Without a connection, only the newest is sent later.
   *
   * @param {unknown} state
   */
  setState(state) {
    const id = String(++this.#lastState);
    const data = JSON.stringify({ type: "cf_agent_state", state, id });
    const before = this.#queue;
    this.#queue = before.filter((waiting) => waiting.kind !== "state"); // nobody needs to hear of an older one
    try {
      this.#put({ data, kind: "state" });
    } catch (error) {
      this.#queue = before;
      throw error;
    }
    this.#own = { id, state, isOvertaken: false };
    this.#show(state, "client");
  }

  /**
   * Calls a method of the agent.
   *
   * @param {string} method
   * @param {unknown[]} [args]
   * @param {{timeout?: number, stream?: {onChunk?: Function, onDone?: Function, onError?: Function}}} [options]
   * @returns {Promise<any>} its result, or an AgentCallError or AgentQueueFullError
   */
  call(method, args = [], options = {}) {
    const isStream = (o) => "onChunk" in o || "onDone" in o || "onError" in o;
    const stream = isStream(options) ? options : options.stream;
    const timeout = options.timeout ?? (stream ? 0 : this.#options.defaultCallTimeout ?? DEFAULT_CALL_TIMEOUT_MS);
    return new Promise((resolve, reject) => {
      const id = `${this.id.slice(0, 64)}-${++this.#lastCall}`;
      const call = { id, method, stream, resolve, reject, isSent: false };
      if (this.#ended) return this.#fail(call, "Connection closed");
      const data = JSON.stringify({ type: "rpc", id, method, args });
      this.#calls.set(id, call);
      try {
        this.#put({ data, kind: "call", call });
      } catch (error) {
        this.#calls.delete(id);
        throw error;
      }
      if (timeout) {
        call.timer = setTimeout(() => this.#fail(call, `RPC call to ${method} timed out after ${timeout}ms`), timeout);
      }
    });
  }

  /**
   * Sends a message, at once or when there is a connection again.
   *
   * @param {string | ArrayBuffer | ArrayBufferView} data
   * @returns {boolean} whether it was sent at once
   */
  send(data) { return this.#put({ data, kind: "message" }); }

  /** Ends it. What waits is not sent, what waits for answers is rejected. */
  close(code = 1000, reason = "") {
    if (this.#ended) return;
    this.#ended = true;
    this.#lost({ code, reason, wasClean: true });
  }

  /** Connects anew, also after close(). */
  reconnect() {
    if (this.#ended) {
      this.#expectReady();
      this.#start();
      return;
    }
    this.#attempts = -1; // this one does not count
    if (this.#ws) this.#lost({ code: 1000, reason: "the client connects anew", wasClean: true });
    this.#connect();
  }

  // Attempts.

  #start() {
    this.#ended = false;
    this.#attempts = 0;
    this.connectionError = null;
    this.#watch();
    this.#connect();
  }

  async #connect() {
    if (this.#ended || this.#ws || this.#timers.has("query")) return;
    this.#stop("retry");
    this.#after("query", this.#options.connectionTimeout, () => this.#lost({ code: 1006, reason: "query took too long" }));
    const timer = this.#timers.get("query");
    const isCurrent = () => this.#timers.get("query") === timer; // else it was closed meanwhile, or took too long
    try {
      const { query } = this.#options;
      const url = this.#withQuery(typeof query === "function" ? await query() : query);
      if (!isCurrent()) return;
      this.#open(url);
      this.#stop("query");
    } catch (error) {
      if (isCurrent()) this.#lost({ code: 1006, reason: "the attempt has failed" }, error);
    }
  }

  #withQuery(query = {}) {
    const given = Object.entries(query ?? {}).filter(([, value]) => value !== null && value !== undefined);
    return `${this.#address}?${new URLSearchParams([["_pk", this.id], ...given])}`;
  }

  #open(url) {
    const ws = new WebSocket(url);
    ws.binaryType = "arraybuffer";
    const mine = (handle) => (event) => { if (this.#ws === ws) handle(event); };
    ws.onopen = mine(() => this.#opened());
    ws.onmessage = mine((event) => this.#take(event.data));
    ws.onclose = mine((event) => this.#lost(event));
    ws.onerror = mine(() => this.#emitError(new Error(`The connection to ${this.#address} has failed`)));
    this.#ws = ws;
    this.#url = url;
    this.#after("attempt", this.#options.connectionTimeout, () => this.#lost({ code: 1006, reason: "no connection in time" }));
  }

  #opened() {
    this.#stop("attempt");
    this.#after("stable", STABLE_MS, () => { this.#attempts = 0; });
    this.#after("greeting", GREETING_MS, () => this.#flush());
    this.#rest();
    this.#emit(new Event("open"), this.#options.onOpen);
  }

  /** The connection is no more, or will not be. Whatever comes of it late is not heard. */
  #lost(how, error) {
    const ws = this.#ws;
    this.#ws = null;
    this.#stop("query", "attempt", "stable", "greeting", "ping", "pong", "retry");
    if (ws && ws.readyState < CLOSING) closeSocket(ws, how);
    this.#greeted = false;
    this.#follows = null;
    this.identified = false;
    const isOver = this.#ended;
    const isFinal = !isOver && (isTerminalCloseEvent(how) || this.#attempts >= this.#options.maxRetries);
    if (isFinal) {
      this.#ended = true;
      this.connectionError = new AgentConnectionError(how);
    }
    if (!this.#ended) this.#again(how.code);
    if (this.#ready.isSettled) this.#expectReady();
    if (this.#ended) this.#giveUp(this.connectionError ?? new AgentConnectionError(how));
    this.#rejectCalls();
    if (error) this.#emitError(error);
    this.#emitClose(how);
    if (isFinal) guard(this.#options.onConnectionError, this.connectionError);
  }

  /** The first attempt comes soon; a host that has too much to do is left alone for longer. */
  #again(code) {
    if (code === 1013) this.#attempts = Math.max(this.#attempts, 2);
    const { minReconnectionDelay: least, maxReconnectionDelay: most } = this.#options;
    const delay = Math.min(most, least * 2 ** this.#attempts);
    this.#attempts++;
    this.#after("retry", delay * (0.2 + 0.8 * Math.random()), () => this.#connect());
  }

  #giveUp(error) {
    this.#watched?.abort();
    this.#ready.reject(error);
    this.#queue = this.#queue.filter((waiting) => waiting.kind === "call"); // those are told
  }

  /** What becomes of calls whose connection is gone: those that were sent cannot hope for an answer. */
  #rejectCalls() {
    for (const call of [...this.#calls.values()]) {
      if (call.isSent || this.#ended) this.#fail(call, "Connection closed");
    }
  }

  // Is it still there? Browsers tell late, or never, that a connection has died while the device slept.

  #watch() {
    this.#watched = new AbortController();
    const { signal } = this.#watched;
    const look = () => {
      if (globalThis.document?.visibilityState === "hidden") return;
      if (this.#ws?.readyState === OPEN) this.#ping();
      else if (this.#timers.has("retry")) this.#connect();
    };
    globalThis.addEventListener?.("online", look, { signal });
    globalThis.addEventListener?.("pageshow", look, { signal });
    globalThis.document?.addEventListener("visibilitychange", look, { signal });
  }

  /** Something has come: all is well for a while. */
  #rest() {
    this.#stop("pong");
    if (this.#options.pingInterval) this.#after("ping", this.#options.pingInterval, () => this.#ping());
  }

  #ping() {
    if (!this.#options.pingInterval || this.#timers.has("pong")) return;
    this.#ws.send('{"type":"skein_ping"}');
    this.#after("pong", this.#options.pingTimeout, () => this.#lost({ code: 1006, reason: "the server says nothing" }));
  }

  // Frames.

  #take(data) {
    this.#rest();
    const frame = parse(data);
    switch (frame?.type) {
      case "cf_agent_identity":
        if (frame.stateFollows) this.#follows = frame;
        else this.#identify(frame);
        return;
      case "cf_agent_state":
        this.#takeState(frame.state);
        return;
      case "cf_agent_state_error":
        if (this.#served === undefined) this.#show(undefined, "server"); // else the true one comes next
        guard(this.#options.onStateUpdateError, frame.error, frame.reason);
        return;
      case "skein_state_set":
        this.#takeSet(frame.id);
        return;
      case "rpc":
        this.#takeAnswer(frame);
        return;
      case "skein_pong":
        return;
    }
    if (!this.#follows) this.#flush();
    this.#emit(new MessageEvent("message", { data }), this.#options.onMessage);
  }

  #identify({ name, agent }) {
    const before = this.identity;
    this.identity = { name, agent };
    this.name = name;
    this.agent = agent;
    this.identified = true;
    this.#flush();
    this.#ready.resolve();
    if (before && (before.name !== name || before.agent !== agent)) {
      guard(this.#options.onIdentityChange, before.name, name, before.agent, agent);
    }
    guard(this.#options.onIdentity, name, agent);
  }

  #takeState(state) {
    this.#served = state;
    if (this.#own) this.#own.isOvertaken = true;
    // What the page has set meanwhile is newer, and still on its way.
    if (!this.#queue.some((waiting) => waiting.kind === "state")) this.#show(state, "server");
    if (this.#follows) {
      const identity = this.#follows;
      this.#follows = null;
      this.#identify(identity);
    }
  }

  /** What the page has set is the agent's state now: also if another's has come here meanwhile, which was set before. */
  #takeSet(id) {
    if (this.#own?.id !== id) return; // a newer one is on its way
    const { state, isOvertaken } = this.#own;
    this.#own = null;
    this.#served = state;
    if (isOvertaken) this.#show(state, "client");
  }

  #show(state, source) {
    this.state = state;
    guard(this.#options.onStateUpdate, state, source);
    this.dispatchEvent(new CustomEvent("state", { detail: { state, source } }));
  }

  #takeAnswer({ id, success, result, error, done }) {
    const call = this.#calls.get(id);
    if (!call) return; // its time is over
    if (!success) {
      this.#fail(call, error, "answered");
    } else if (done === false) {
      guard(call.stream?.onChunk, result);
    } else {
      this.#forget(call);
      guard(call.stream?.onDone, result);
      call.resolve(result);
    }
  }

  #fail(call, message, outcome = call.isSent ? "unknown" : "unsent") {
    this.#forget(call);
    guard(call.stream?.onError, message);
    call.reject(new AgentCallError(message, call.method, outcome));
  }

  #forget(call) {
    clearTimeout(call.timer);
    this.#calls.delete(call.id);
    this.#queue = this.#queue.filter((waiting) => waiting.call !== call);
  }

  // What is to be sent.

  /** Sends at once if there is a connection, else later. It returns whether it was sent. */
  #put(frame) {
    const { maxEnqueuedMessages: most, maxEnqueuedBytes: bytes } = this.#options;
    if (this.#ended) throw this.connectionError ?? new AgentConnectionError({ code: 1000, reason: "by this page" });
    if (this.#queue.length >= most) throw new AgentQueueFullError(`${most} frames`);
    if (this.bufferedAmount > 0 && this.bufferedAmount + sizeOf(frame.data) > bytes) throw new AgentQueueFullError(`${this.bufferedAmount} bytes`);
    this.#queue.push(frame);
    if (!this.#greeted) return false;
    this.#flush();
    return true;
  }

  #queued() { return this.#queue.reduce((sum, { data }) => sum + sizeOf(data), 0); }

  #flush() {
    if (this.#ws?.readyState !== OPEN) return;
    this.#stop("greeting");
    this.#greeted = true;
    for (const { data, call } of this.#queue.splice(0)) {
      this.#ws.send(data);
      if (call) call.isSent = true;
    }
  }

  // Small things.

  #expectReady() {
    const ready = { isSettled: false };
    ready.promise = new Promise((resolve, reject) => {
      ready.resolve = () => { ready.isSettled = true; resolve(); };
      ready.reject = (error) => { ready.isSettled = true; reject(error); };
    });
    ready.promise.catch(() => {}); // nobody has to wait for it
    this.#ready = ready;
  }

  #emit(event, handler) {
    guard(handler, event);
    this.dispatchEvent(event);
  }

  #emitClose({ code, reason = "", wasClean = false }) {
    this.#emit(Object.assign(new Event("close"), { code, reason, wasClean }), this.#options.onClose);
  }

  #emitError(error) {
    this.#emit(Object.assign(new Event("error"), { error, message: error.message }), this.#options.onError);
  }

  #after(what, ms, fn) {
    this.#stop(what);
    this.#timers.set(what, setTimeout(() => {
      this.#timers.delete(what);
      fn();
    }, ms));
  }

  #stop(...timers) {
    for (const what of timers) {
      clearTimeout(this.#timers.get(what));
      this.#timers.delete(what);
    }
  }
}
