/** A worker of a queue: takes messages under a lease, keeps the lease while it works, settles each on its own. */
import { LeaseLost, PostroomError } from "./errors.js";
import { decode } from "./message.js";

/** Throw this when trying again cannot help: the message goes to the dead letters. */
export class Reject extends Error {
  constructor(reason = "rejected") {
    super(reason);
    this.name = "Reject";
  }
}

/** A message in hand. Whoever settles it awaits the commit; the handler's return settles what was not. */
class Delivery {
  #worker;

  constructor(worker, message) {
    Object.assign(this, message);
    this.#worker = worker;
  }

  /** Done. */
  ack() {
    return this.#worker.settle(this, { outcome: "ack" });
  }

  /** Try again, after `delay` (seconds, or `"30s"`) or as the queue's retry policy says. */
  retry({ delay, error } = {}) {
    return this.#worker.settle(this, { outcome: "retry", delay, error });
  }

  /** To the dead letters. */
  reject(error) {
    return this.#worker.settle(this, { outcome: "reject", error });
  }

  /** Give it back untouched; it counts as no attempt. */
  release() {
    return this.#worker.settle(this, { outcome: "release" });
  }
}

export class Worker {
  #connection;
  #queue;
  #handler;
  #options;
  #held = new Map(); // offset -> Delivery
  #busy = 0; // handlers at work, and settles that are not answered
  #extending = undefined;
  #done = false;
  #idle = [];

  constructor(number, connection, queue, handler, options) {
    this.#connection = connection;
    this.#queue = queue;
    this.#handler = handler;
    this.#options = { concurrency: 8, onError: (error) => console.error("postroom:", error), ...options };
  }

  /** Take no more; resolves when what is in hand is settled. */
  async stop() {
    this.#done = true;
    if (this.#busy > 0) await new Promise((resolve) => this.#idle.push(resolve));
    this.#connection.send({ type: "unsubscribe" });
    this.ended(null);
  }

  /** Of deliveries. */
  async settle(delivery, { outcome, ...more }) {
    if (this.#held.get(delivery.offset) !== delivery) throw new LeaseLost();
    this.#held.delete(delivery.offset);
    try {
      const answer = await this.#connection.ask({ type: "settle", outcome, offsets: [delivery.offset], ...more });
      if (answer.lost.length > 0) throw new LeaseLost();
    } finally {
      if (!this.#done) this.#connection.send({ type: "credit", messages: 1 });
    }
  }

  // Of the client

  begin() {
    if (this.#done) return;
    this.#connection.send({ type: "subscribe", subscription: this.#queue, credit: this.#options.concurrency });
  }

  received(text) {
    if (text.type === "start") {
      clearInterval(this.#extending);
      this.#extending = setInterval(() => this.#extend(text.lease_seconds), text.lease_seconds * 400);
    } else if (text.type === "messages" && !this.#done) {
      for (const raw of text.messages) this.#work(new Delivery(this, decode(raw)));
    } else if (text.type === "ended" && text.problem) {
      this.ended(new PostroomError(text.problem));
    }
  }

  /** The leases ended with the connection: what is in hand goes to another worker, or comes again. */
  lost() {
    clearInterval(this.#extending);
    this.#held.clear();
  }

  ended(error) {
    this.#done = true;
    this.lost();
    this.#connection.forget();
    if (error !== null) this.#options.onError(error, null);
  }

  // Within

  async #work(delivery) {
    this.#held.set(delivery.offset, delivery);
    this.#busy++;
    try {
      await this.#handle(delivery);
    } finally {
      if (--this.#busy === 0) this.#idle.splice(0).forEach((resolve) => resolve());
    }
  }

  async #handle(delivery) {
    let settle = () => delivery.ack();
    try {
      await this.#handler(delivery);
    } catch (error) {
      const reason = String(error?.message ?? error).slice(0, 1_000);
      settle = () => (error instanceof Reject ? delivery.reject(reason) : delivery.retry({ error: reason }));
      this.#options.onError(error, delivery);
    }
    if (this.#held.get(delivery.offset) !== delivery) return; // settled by the handler, or its lease is lost
    await settle().catch((error) => this.#options.onError(error, delivery));
  }

  #extend(seconds) {
    const offsets = [...this.#held.keys()];
    if (offsets.length > 0) this.#connection.send({ type: "extend", offsets, duration: seconds });
  }
}
