/** The client against the real daemon. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { connect, GapError, LeaseLost, Reject } from "../src/index.js";
import { proxy } from "./proxy.js";
import { client, request, topic, until, URL_ } from "./world.js";

test("publish resolves with a receipt after the commit", async (t) => {
  const one = client(t);
  const name = topic();
  const receipt = await one.publish(name, { price: 1 }, { key: "k", headers: { a: "b" }, priority: 3 });
  assert.equal(receipt.duplicate, false);
  const { messages } = await request("GET", `/v1/topics/${name}/messages`);
  assert.deepEqual(messages[0].body, { price: 1 });
  assert.deepEqual([messages[0].key, messages[0].headers, messages[0].priority], ["k", { a: "b" }, 3]);
  const later = await one.publish(name, 1, { delay: "1h" });
  assert.equal(later.offset, null);
  assert(later.due > new Date());
});

test("bodies come back as they went", async (t) => {
  const one = client(t);
  const name = topic();
  const bodies = [{ a: [1, null, "ü"] }, "text ☃", new Uint8Array([0, 255, 7]), 0, null, new Uint8Array(100_000)];
  await one.publishMany(bodies.map((body) => ({ topic: name, body })));
  const seen = [];
  for await (const message of one.subscribe(name, { from: "earliest" })) {
    seen.push(message.body);
    if (seen.length === bodies.length) break;
  }
  assert.deepEqual(seen, bodies);
});

test("a batch is all or nothing, and a refusal has a code", async (t) => {
  const one = client(t);
  const name = topic();
  const messages = [{ topic: name, body: 1 }, { topic: "a/#", body: 2 }];
  await assert.rejects(one.publishMany(messages), { code: "bad_topic" });
  assert.deepEqual((await request("GET", `/v1/topics/${name}/messages`)).messages, []);
  await assert.rejects(one.publish(name, undefined), TypeError);
});

test("what the broker cannot read is refused, not sent for ever", async (t) => {
  const one = client(t);
  const name = topic();
  const large = "ü".repeat(1 << 20);
  const early = assert.rejects(one.publish(name, large), { code: "message_too_large" }); // the limit is not known yet
  await one.publish(name, 1);
  await early;
  await assert.rejects(one.publishMany(Array(3).fill({ topic: name, body: "x".repeat(1 << 19) })), {
    code: "message_too_large",
  });
  let deep = [];
  for (let level = 0; level < 1_500; level++) deep = [deep];
  await assert.rejects(one.publish(name, deep), { code: "bad_frame" });
  await one.publish(name, 2);
  const { messages } = await request("GET", `/v1/topics/${name}/messages`);
  assert.deepEqual(messages.map((message) => message.body), [1, 2]);
});

test("a subscription tells its start and goes on live", async (t) => {
  const one = client(t);
  const name = topic();
  await one.publish(name, "old");
  const starts = [];
  const seen = [];
  one.subscribe(name, { from: "earliest", onStart: (s) => starts.push(s), onMessage: (m) => seen.push(m.body) });
  await until(() => seen.length === 1);
  await one.publish(name, "new");
  await until(() => seen.length === 2);
  assert.deepEqual(seen, ["old", "new"]);
  assert.equal(starts.length, 1);
  assert.equal(starts[0].recovered, true);
  assert.equal(starts[0].resumed, false);
});

test("a broken connection loses and repeats nothing, of what is read and of what is published", async (t) => {
  const between = await proxy(t, URL_);
  const states = [];
  const reader = client(t, { onState: (state) => states.push(state) }, between.url);
  const writer = client(t, {}, between.url);
  const outside = client(t);
  const name = topic();
  const [seen, starts, receipts] = [[], [], []];
  reader.subscribe(name, { onStart: (s) => starts.push(s), onMessage: (m) => seen.push(m.body) });
  await until(() => starts.length === 1);
  const published = (async () => {
    for (let n = 0; n < 300; n += 3) {
      receipts.push(...(await Promise.all([writer.publish(name, n), outside.publish(name, n + 1)])));
      receipts.push(await outside.publish(name, n + 2));
    }
  })();
  for (let i = 1; i <= 3; i++) {
    await until(() => seen.length > i * 40);
    between.cut();
    await until(() => reader.state === "waiting" && writer.state === "waiting");
    await outside.publish(name, `outage ${i}`);
    between.mend();
    await until(() => reader.state === "open");
  }
  await published;
  await until(() => seen.length >= 303);
  assert.deepEqual(seen.filter(Number.isInteger).sort((a, b) => a - b), Array.from({ length: 300 }, (_, n) => n));
  assert.equal(seen.length, 303);
  assert.equal(new Set(receipts.map((r) => r.offset)).size, 300);
  assert.deepEqual(starts.map((s) => [s.recovered, s.resumed]), [[true, false], ...Array(3).fill([true, true])]);
  assert(states.includes("waiting"));
});

test("for await goes on over a break, and takes no more than it has room for", async (t) => {
  const between = await proxy(t, URL_);
  const reader = client(t, {}, between.url);
  const outside = client(t);
  const name = topic();
  await outside.publishMany(Array.from({ length: 1000 }, (_, n) => ({ topic: name, body: n })));
  let next = 0;
  for await (const message of reader.subscribe(name, { from: "earliest" })) {
    assert.equal(message.body, next++);
    if (next === 100 || next === 700) {
      between.cut();
      await until(() => reader.state === "waiting");
      between.mend();
    }
    if (next === 1000) break;
  }
});

test("a named stream that repeats what was not committed goes on behind it", async (t) => {
  const between = await proxy(t, URL_);
  const name = topic();
  const stream = name.replaceAll("/", "-");
  await request("PUT", `/v1/subscriptions/${stream}`, { kind: "stream", topics: [name] });
  const reader = client(t, {}, between.url);
  await client(t).publishMany(Array.from({ length: 1000 }, (_, n) => ({ topic: name, body: n })));
  let next = 0;
  for await (const message of reader.subscribe(null, { subscription: stream })) {
    assert.equal(message.body, next++);
    if (next === 600) {
      between.cut();
      await until(() => reader.state === "waiting");
      between.mend();
    }
    if (next === 1000) break;
  }
});

test("what is asked as soon as the connection is told of is asked once", async (t) => {
  const name = topic();
  const [seen, ends, receipts] = [[], [], []];
  const one = client(t, {
    onState: (state) => {
      if (state !== "open") throw new Error("mine");
      one.subscribe(name, { onMessage: (m) => seen.push(m.body), onEnd: (end) => ends.push(end) });
      one.publish(name, 1).then((receipt) => receipts.push(receipt));
    },
  });
  t.mock.method(console, "error", () => {});
  await until(() => receipts.length === 1);
  await until(() => seen.length === 1);
  await one.publish(name, 2);
  await until(() => seen.length === 2);
  assert.deepEqual([seen, ends, receipts[0].duplicate], [[1, 2], [], false]);
});

test("what cannot be recovered is said, never passed over", async (t) => {
  const one = client(t);
  const name = topic();
  await one.publish(name, 1);
  const starts = [];
  one.subscribe(name, { from: "feedbeef.1", onStart: (s) => starts.push(s), onMessage: () => {} });
  await until(() => starts.length === 1);
  assert.equal(starts[0].recovered, false);
  await assert.rejects(async () => {
    for await (const message of one.subscribe(name, { from: "feedbeef.1" })) assert.fail(message.body);
  }, GapError);
});

test("what was left out is counted", async (t) => {
  const one = client(t);
  const name = topic();
  const [seen, thinned] = [[], []];
  const reader = one.subscribe(name, {
    slow: "thin",
    credit: 1,
    onStart: () => {},
    onMessage: (m) => seen.push(m.body),
    onThinned: (what) => thinned.push(what.leftOut),
  });
  await until(() => reader.position !== null);
  for (let n = 0; n < 5; n++) await one.publish(name, n);
  await until(() => seen.length === 1);
  reader.grant(1);
  await until(() => seen.length === 2);
  assert.deepEqual([seen, thinned], [[0, 4], [3]]);
});

test("a subscription that is refused ends with the reason", async (t) => {
  const ends = [];
  client(t).subscribe("a/#/b", { onMessage: () => {}, onEnd: (end) => ends.push(end.error.code) });
  await until(() => ends.length === 1);
  assert.deepEqual(ends, ["bad_filter"]);
  await assert.rejects(async () => {
    for await (const message of client(t).subscribe(null, { subscription: "none" })) assert.fail(message.body);
  }, { code: "unknown_subscription" });
});

test("a handler that throws stops neither the subscription nor the client", async (t) => {
  const one = client(t);
  const name = topic();
  const told = t.mock.method(console, "error", () => {});
  const seen = [];
  const reader = one.subscribe(name, {
    onStart: () => {},
    onMessage: (m) => {
      seen.push(m.body);
      throw new Error("mine");
    },
  });
  await until(() => reader.position !== null);
  for (const n of [1, 2]) await one.publish(name, n);
  await until(() => seen.length === 2);
  assert.equal(told.mock.callCount(), 2);
});

test("a named stream goes on from its committed cursor", async (t) => {
  const name = topic();
  const stream = name.replaceAll("/", "-");
  await request("PUT", `/v1/subscriptions/${stream}`, { kind: "stream", topics: [name] });
  const one = client(t);
  for (const n of [1, 2, 3]) await one.publish(name, n);
  const first = one.subscribe(null, { subscription: stream });
  for await (const message of first) {
    if (message.body === 2) {
      await first.commit();
      break;
    }
  }
  for await (const message of one.subscribe(null, { subscription: stream })) {
    assert.equal(message.body, 3);
    break;
  }
});

test("a worker acks what returns, retries what throws, rejects what cannot be", async (t) => {
  const name = topic();
  const queue = name.replaceAll("/", "-");
  await request("PUT", `/v1/subscriptions/${queue}`, { kind: "queue", topics: [name], retry: { initial: "1ms" } });
  const one = client(t);
  const [seen, errors] = [[], []];
  const worker = one.work(
    queue,
    async (message) => {
      seen.push([message.body, message.attempt]);
      if (message.body === "twice" && message.attempt === 1) throw new Error("once more");
      if (message.body === "never") throw new Reject("no use");
      if (message.body === "self") await message.ack();
    },
    { concurrency: 2, onError: (error) => errors.push(error.message) },
  );
  for (const body of ["good", "twice", "never", "self"]) await one.publish(name, body);
  await until(() => seen.length === 5);
  await worker.stop();
  const info = await request("GET", `/v1/subscriptions/${queue}`);
  assert.deepEqual([info.acked, info.dead_letters, info.ready, info.leased], [3, 1, 0, 0]);
  assert.deepEqual(seen.filter(([body]) => body === "twice"), [["twice", 1], ["twice", 2]]);
  assert.deepEqual(errors.sort(), ["no use", "once more"]);
});

test("a worker whose connection breaks loses its leases and gets the message again", async (t) => {
  const name = topic();
  const queue = name.replaceAll("/", "-");
  await request("PUT", `/v1/subscriptions/${queue}`, { kind: "queue", topics: [name] });
  const between = await proxy(t, URL_);
  const one = client(t, {}, between.url);
  const outcomes = [];
  one.work(queue, async (message) => {
    if (outcomes.length === 0) {
      between.cut();
      await until(() => one.state === "waiting");
      outcomes.push(await message.ack().catch((error) => error));
      between.mend();
    } else {
      await message.ack();
      outcomes.push("acked");
    }
  });
  await client(t).publish(name, 1);
  await until(() => outcomes.length === 2);
  assert(outcomes[0] instanceof LeaseLost);
  assert.equal(outcomes[1], "acked");
});

test("a long job keeps its lease", async (t) => {
  const name = topic();
  const queue = name.replaceAll("/", "-");
  await request("PUT", `/v1/subscriptions/${queue}`, { kind: "queue", topics: [name], lease: "500ms" });
  const one = client(t);
  const attempts = [];
  const worker = one.work(queue, async (message) => {
    attempts.push(message.attempt);
    await new Promise((resolve) => setTimeout(resolve, 1_500));
  });
  await one.publish(name, 1);
  await until(() => attempts.length === 1);
  await worker.stop();
  assert.deepEqual(attempts, [1]);
  assert.equal((await request("GET", `/v1/subscriptions/${queue}`)).acked, 1);
});

test("closing rejects what was not answered and ends what was read", async (t) => {
  const one = connect("http://127.0.0.1:1", { random: () => 0 });
  const ends = [];
  one.subscribe("a", { onMessage: () => {}, onEnd: ({ error }) => ends.push(error) });
  const publishing = one.publish("a", 1);
  one.close();
  await assert.rejects(publishing, { name: "ConnectionLost" });
  await assert.rejects(one.publish("a", 1), { name: "ConnectionLost" });
  assert.deepEqual(ends, [null]);
  assert.equal(one.state, "closed");
});

test("without a WebSocket it says what to do", () => {
  const builtIn = globalThis.WebSocket;
  delete globalThis.WebSocket;
  try {
    assert.throws(() => connect(URL_), /--experimental-websocket/);
  } finally {
    globalThis.WebSocket = builtIn;
  }
  assert.throws(() => connect("ws://127.0.0.1"), /write http/);
});
