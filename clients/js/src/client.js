/** The client: what is asked of it survives the connection it was asked on. */
import { ConnectionLost, PostroomError } from "./errors.js";
import { Link } from "./link.js";
import { decodeReceipt, encode } from "./message.js";
import { Subscription } from "./subscription.js";
import { Worker } from "./worker.js";

/** Publishes beyond these wait their turn. */
const MOST_UNANSWERED = 1_000;
/** With this a publish is refused because the daemon stops: it is sent again over the next connection. */
const PASSING = "shutting_down";
/** With this the broker closes the connection on which we said what it cannot read: said again, it would close the next. */
const UNREADABLE = "bad_frame";

/**
 * Connect to a broker. Returns at once; the connection is made, and made again, in the background.
 * @param {string} url such as `https://broker.example.com`
 * @param {object} options see index.d.ts
 */
export function connect(url = "http://127.0.0.1:7680", options = {}) {
  return new Client(url, options);
}

export class Client {
  #link;
  #next = 1;
  #publishes = new Map(); // ref -> {messages, resolve, reject}; sent again after a loss
  #questions = new Map(); // ref -> {resolve, reject}; lost with the connection
  #readers = new Map(); // sub -> Subscription or Worker
  #room = [];
  #ended = null;

  constructor(url, options = {}) {
    this.#link = new Link(url, options, {
      welcome: () => this.#welcome(),
      message: (text) => this.#received(text),
      lost: (error) => this.#lost(error),
      ended: (error) => this.#end(error),
    });
  }

  /** `connecting`, `open`, `waiting` (for the next try) or `closed`. */
  get state() {
    return this.#link.state;
  }

  /** Publish one message; resolves with its receipt after the commit, whatever becomes of the connection meanwhile. */
  async publish(topic, body, options = {}) {
    const [receipt] = await this.#publish([encode(topic, body, options)]);
    return receipt;
  }

  /** Publish all or nothing, in one commit. @param {{topic: string, body: unknown}[]} messages */
  publishMany(messages) {
    return this.#publish(messages.map(({ topic, body, ...options }) => encode(topic, body, options)));
  }

  /** Follow topics, or a named stream: see index.d.ts. */
  subscribe(topics, options = {}) {
    const filters = typeof topics === "string" ? [topics] : topics;
    return this.#add((number, connection) => new Subscription(number, connection, filters, options));
  }

  /** Work a queue: what `handler` returns from is acked, what it throws at is retried. See index.d.ts. */
  work(queue, handler, options = {}) {
    return this.#add((number, connection) => new Worker(number, connection, queue, handler, options));
  }

  /** Close for good: what was not answered is rejected, subscriptions end. */
  close() {
    this.#link.close();
  }

  // Within

  async #publish(messages) {
    while (this.#publishes.size >= MOST_UNANSWERED) await new Promise((resolve) => this.#room.push(resolve));
    this.#check();
    return new Promise((resolve, reject) => {
      const ref = this.#next++;
      this.#publishes.set(ref, { messages, resolve, reject });
      this.#sendPublish(ref, messages);
    });
  }

  #sendPublish(ref, messages) {
    try {
      this.#link.send({ type: "publish", ref, messages });
    } catch (error) {
      this.#answer(ref, (asked) => asked.reject(error));
    }
  }

  #add(make) {
    this.#check();
    const number = this.#next++;
    const reader = make(number, {
      send: (text) => this.#link.send({ ...text, sub: number }),
      ask: (text) => this.#ask({ ...text, sub: number }),
      forget: () => this.#readers.delete(number),
    });
    this.#readers.set(number, reader);
    if (this.state === "open") reader.begin();
    return reader;
  }

  #ask(text) {
    if (this.state !== "open") return Promise.reject(new ConnectionLost("there is no connection"));
    return new Promise((resolve, reject) => {
      const ref = this.#next++;
      this.#questions.set(ref, { resolve, reject });
      this.#link.send({ ...text, ref });
    });
  }

  #check() {
    if (this.#ended !== null) throw this.#ended;
  }

  #welcome() {
    for (const reader of [...this.#readers.values()]) reader.begin();
    for (const [ref, { messages }] of [...this.#publishes]) this.#sendPublish(ref, messages);
  }

  #received(text) {
    if (text.type === "published") this.#answer(text.ref, (asked) => asked.resolve(text.receipts.map(decodeReceipt)));
    else if (text.type === "refused") this.#refused(text);
    else if (text.ref !== undefined) this.#question(text.ref)?.resolve(text);
    else this.#readers.get(text.sub)?.received(text);
  }

  #refused(text) {
    const error = new PostroomError(text.problem);
    if (text.request === "publish") {
      if (error.code !== PASSING) this.#answer(text.ref, (asked) => asked.reject(error));
    } else if (text.ref !== undefined) {
      this.#question(text.ref)?.reject(error);
    } else if (text.request === "subscribe") {
      this.#readers.get(text.sub)?.ended(error);
    }
  }

  #answer(ref, tell) {
    const asked = this.#publishes.get(ref);
    this.#publishes.delete(ref);
    this.#room.shift()?.();
    if (asked !== undefined) tell(asked);
  }

  #question(ref) {
    const asked = this.#questions.get(ref);
    this.#questions.delete(ref);
    return asked;
  }

  #lost(error) {
    for (const { reject } of this.#questions.values()) reject(new ConnectionLost());
    this.#questions.clear();
    for (const reader of this.#readers.values()) reader.lost();
    if (error?.code === UNREADABLE) this.#rejectPublishes(error);
  }

  #rejectPublishes(error) {
    const publishes = [...this.#publishes.values()];
    this.#publishes.clear();
    for (const { reject } of publishes) reject(error);
    for (const resolve of this.#room.splice(0)) resolve();
  }

  #end(error) {
    this.#ended = error ?? new ConnectionLost("the client was closed");
    this.#lost();
    this.#rejectPublishes(this.#ended);
    for (const reader of [...this.#readers.values()]) reader.ended(error);
  }
}
