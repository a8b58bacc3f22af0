/** A reader of topics or of a named stream, which goes on where it stopped and says so when it cannot. */
import { GapError, PostroomError, report } from "./errors.js";
import { decode } from "./message.js";

/** Messages that may wait for `for await`; the broker sends no more than that. */
const AHEAD = 256;

export class Subscription {
  #number;
  #connection;
  #request;
  #on;
  #credit; // messages that may still come; undefined: any number
  #received = null; // position up to which everything came
  #buffer = [];
  #wake = null;
  #done = false;
  #error = null;

  constructor(number, connection, topics, options) {
    const { from, slow, subscription, credit, ...on } = options;
    this.#number = number;
    this.#connection = connection;
    this.#on = on;
    this.#request = { topics: topics ?? [], from, slow, subscription };
    this.#credit = on.onMessage ? credit : AHEAD;
    /** @type {string | null} Up to where messages were handled; `from` this, another subscription goes on. */
    this.position = null;
  }

  /** No more messages. */
  unsubscribe() {
    this.#connection.send({ type: "unsubscribe" });
    this.ended(null);
  }

  /** With `credit`: take so many messages more. */
  grant(messages) {
    if (this.#credit === undefined) return; // any number comes as it is
    this.#credit += messages;
    this.#connection.send({ type: "credit", messages });
  }

  /** Of a named stream: all up to `position` is done. Resolves after the commit. */
  async commit(position = this.position) {
    await this.#connection.ask({ type: "commit", position });
  }

  /** The messages, in order. Ends with `unsubscribe`; throws when the broker ends it, or at a gap unless there is an
   * `onStart` to tell it to. */
  async *[Symbol.asyncIterator]() {
    if (this.#on.onMessage) throw new TypeError("this subscription hands its messages to onMessage");
    let taken = 0;
    try {
      for (;;) {
        const message = this.#buffer.shift();
        if (message === undefined) {
          if (this.#error !== null) throw this.#error;
          if (this.#done) return;
          await new Promise((resolve) => (this.#wake = resolve));
          continue;
        }
        if (message instanceof GapError) throw message;
        this.position = message.position;
        if (++taken === AHEAD / 2) this.grant(taken);
        taken %= AHEAD / 2;
        yield message;
      }
    } finally {
      if (!this.#done) this.unsubscribe();
    }
  }

  // Of the client

  begin() {
    const { from, subscription, ...rest } = this.#request;
    const where = subscription ? { subscription } : { from: this.#received ?? from };
    this.#connection.send({ type: "subscribe", ...rest, ...where, credit: this.#credit });
  }

  received(text) {
    if (text.type === "messages") this.#take(text.messages);
    else if (text.type === "start") this.#started(text);
    else if (text.type === "thinned") this.#call("onThinned", { leftOut: text.left_out, position: text.position });
    else if (text.type === "ended" && text.problem) this.ended(new PostroomError(text.problem));
  }

  lost() {}

  ended(error) {
    if (this.#done) return;
    this.#done = true;
    this.#error = error;
    this.#connection.forget();
    this.#wakeUp();
    this.#call("onEnd", { error, position: this.position });
  }

  // Within

  #started({ recovered, position }) {
    const resumed = this.#received !== null;
    if (!resumed || !recovered) {
      this.#received = position;
      this.position ??= position;
    }
    if (this.#on.onStart) this.#call("onStart", { recovered, position, resumed });
    else if (!recovered) this.#gap(position);
  }

  #gap(position) {
    const error = new GapError(position);
    if (this.#on.onMessage) console.warn(`postroom: ${error.message} (give an onStart to handle this)`);
    else this.#buffer.push(error);
    this.#wakeUp();
  }

  /** A named stream repeats, after a loss, what was not committed. */
  #take(messages) {
    if (this.#credit !== undefined) this.#credit -= messages.length;
    const fresh = messages.filter((raw) => isAfter(raw.position, this.#received));
    if (fresh.length < messages.length) this.grant(messages.length - fresh.length); // repeats take nobody's credit
    for (const raw of fresh) {
      this.#received = raw.position;
      const message = decode(raw);
      if (!this.#on.onMessage) {
        this.#buffer.push(message);
        continue;
      }
      this.position = message.position;
      this.#call("onMessage", message);
      if (this.#done) return;
    }
    this.#wakeUp();
  }

  #wakeUp() {
    this.#wake?.();
    this.#wake = null;
  }

  #call(name, argument) {
    try {
      this.#on[name]?.(argument, this);
    } catch (error) {
      report(error);
    }
  }
}

/** Positions are opaque but for this: `EPOCH.OFFSET`, and offsets of one epoch rise. */
function isAfter(position, other) {
  if (other === null) return true;
  const [epoch, offset] = position.split(".");
  const [otherEpoch, otherOffset] = other.split(".");
  return epoch !== otherEpoch || BigInt(offset) > BigInt(otherOffset);
}
