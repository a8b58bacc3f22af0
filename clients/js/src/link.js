/** One WebSocket at a time, found again after each loss: waits longer each time, and never all clients at once. */
import { ConnectionLost, PostroomError, report } from "./errors.js";

/** Milliseconds between two tries, doubled each time, times a random number from 0.5 to 1. */
const FIRST_REST = 250;
const LONGEST_REST = 30_000;
const CONNECTS_WITHIN = 15_000;
/** The broker says something each heartbeat; after so many without a word it is taken for gone. */
const SILENT_BEATS = 2.5;
/** With these there is no point in trying again. */
const FINAL = new Set(["unauthenticated", "forbidden"]);

export class Link {
  #url;
  #options;
  #socket = null;
  #timer = undefined;
  #watch = undefined;
  #heard = 0;
  #tries = 0;
  #problem = null;
  #retry = () => this.#socket === null && this.#state === "waiting" && this.#open();
  #state = "connecting";
  #most = Infinity; // bytes of a text that the broker takes

  /**
   * @param {string} url of the broker
   * @param {{token?: any, WebSocket?: any, onState?: Function, random?: () => number}} options
   * @param {{welcome: Function, message: Function, lost: Function, ended: Function}} owner
   */
  constructor(url, options, owner) {
    this.#url = new URL(url.endsWith("/") ? url : `${url}/`);
    if (!/^https?:$/.test(this.#url.protocol)) throw new TypeError(`${url}: write http:// or https://`);
    this.#options = { random: Math.random, ...options };
    this.WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (this.WebSocket === undefined) {
      throw new TypeError("no WebSocket here: use Node 22, node --experimental-websocket, or pass one as an option");
    }
    this.owner = owner;
    globalThis.addEventListener?.("online", this.#retry);
    this.#open();
  }

  get state() {
    return this.#state;
  }

  /** Send if there is a connection; what must not be lost its sender sends again after the next welcome. Throws for
   * what the broker would close the connection at. */
  send(text) {
    if (this.#state !== "open") return;
    const written = JSON.stringify(text);
    const size = written.length * 3 > this.#most ? new TextEncoder().encode(written).length : 0;
    if (size > this.#most) {
      const detail = `it is ${size} bytes as JSON, the limit is ${this.#most}`;
      throw new PostroomError({ code: "message_too_large", title: "This is over the limit.", detail });
    }
    this.#socket.send(written);
  }

  /** For good. @param {Error | null} error */
  close(error = null) {
    if (this.#state === "closed") return;
    this.#enter("closed", error);
    clearTimeout(this.#timer);
    clearInterval(this.#watch);
    globalThis.removeEventListener?.("online", this.#retry);
    this.#drop();
    this.owner.ended(error);
  }

  async #open() {
    clearTimeout(this.#timer);
    if (this.#state !== "connecting") this.#enter("connecting", null);
    this.#problem = null;
    let target;
    try {
      target = await this.#target("ws");
    } catch (error) {
      return this.#lost(error);
    }
    if (this.#state === "closed") return;
    const socket = (this.#socket = new this.WebSocket(target));
    this.#timer = setTimeout(() => this.#lost(new ConnectionLost("no connection in time")), CONNECTS_WITHIN);
    socket.onmessage = (event) => socket === this.#socket && this.#received(JSON.parse(event.data));
    socket.onclose = (event) => socket === this.#socket && this.#closed(event);
    // A close follows and says more, but not in Node 20 after a handshake that failed.
    socket.onerror = () => setTimeout(() => socket === this.#socket && this.#state !== "open" && this.#closed({ code: 1006 }));
  }

  async #target(scheme) {
    const { token } = this.#options;
    const target = new URL("v1/stream", this.#url);
    target.protocol = this.#url.protocol.replace("http", scheme);
    const value = typeof token === "function" ? await token() : token;
    if (value) target.searchParams.set("access_token", value);
    return target;
  }

  #received(text) {
    this.#heard = Date.now();
    if (text.type === "welcome") {
      clearTimeout(this.#timer);
      this.#tries = 0;
      this.#watchFor(text.heartbeat * 1000 * SILENT_BEATS);
      this.#state = "open";
      this.#most = text.max_text;
      this.owner.welcome(text); // before the application hears of it, and asks for more
      this.#tell(null);
    } else if (text.type === "error") {
      this.#problem = new PostroomError(text.problem);
    } else {
      this.owner.message(text);
    }
  }

  #watchFor(silence) {
    clearInterval(this.#watch);
    this.#watch = setInterval(() => {
      if (Date.now() - this.#heard > silence) this.#lost(new ConnectionLost("the broker was silent for too long"));
    }, silence / 4);
  }

  async #closed(event) {
    this.#socket = null;
    clearTimeout(this.#timer);
    const wasOpen = this.#state === "open";
    const error = this.#problem ?? new ConnectionLost(event.reason || `the connection was closed (${event.code})`);
    if (!wasOpen && this.#problem === null) {
      const refusal = await this.#whyRefused(); // a browser does not say why a handshake failed
      if (refusal !== null) return this.close(refusal);
      if (this.#state === "closed") return;
    }
    if (FINAL.has(this.#problem?.code) && typeof this.#options.token !== "function") return this.close(this.#problem);
    this.#lost(error);
  }

  async #whyRefused() {
    try {
      const answer = await fetch(await this.#target("http"), { signal: AbortSignal.timeout(5_000) });
      const problem = await answer.json();
      return FINAL.has(problem.code) ? new PostroomError(problem) : null;
    } catch {
      return null; // not there at all: try again
    }
  }

  #lost(error) {
    if (this.#state === "closed") return;
    clearInterval(this.#watch);
    this.#drop();
    const rest = Math.min(FIRST_REST * 2 ** this.#tries++, LONGEST_REST) * (0.5 + this.#options.random() / 2);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.#retry, rest);
    this.#enter("waiting", error);
    this.owner.lost(error);
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    if (socket !== null && socket.readyState < 2) socket.close();
  }

  #enter(state, error) {
    this.#state = state;
    this.#tell(error);
  }

  #tell(error) {
    try {
      this.#options.onState?.(this.#state, error);
    } catch (thrown) {
      report(thrown);
    }
  }
}
