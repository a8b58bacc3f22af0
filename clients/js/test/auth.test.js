/** Tokens, against a daemon with `[auth]`. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { client, request, topic, until } from "./world.js";

const ADMIN = process.env.POSTROOM_ADMIN_TOKEN;
const admin = (method, path, body) => request(method, path, body, { Authorization: `Bearer ${ADMIN}` });
let names = 0;

async function principal(...grants) {
  const name = `page-${++names}`;
  for (const grant of grants) await admin("POST", `/v1/principals/${name}/grants`, { grant });
  return { name, ...(await admin("POST", `/v1/principals/${name}/tokens`)) };
}

function watched(t, options) {
  const ends = [];
  const made = client(t, { ...options, onState: (state, error) => state === "closed" && ends.push(error) });
  return [made, ends];
}

test("a token may do what it was granted, and is told what it may not", async (t) => {
  const name = topic();
  const { token } = await principal(`consume ${name}/#`);
  const [one, ends] = watched(t, { token });
  const seen = [];
  one.subscribe(`${name}/#`, { onStart: () => seen.push("start"), onMessage: (m) => seen.push(m.body) });
  await until(() => seen.length === 1);
  await assert.rejects(one.publish(`${name}/a`, 1), { code: "forbidden" });
  await client(t, { token: ADMIN }).publish(`${name}/a`, 2);
  await until(() => seen.length === 2);
  assert.deepEqual([seen, ends], [["start", 2], []]);
});

test("without a token, or with a wrong one, it gives up and says why", async (t) => {
  for (const token of [undefined, "pr_000000000000_wrong"]) {
    const [one, ends] = watched(t, { token });
    await assert.rejects(one.publish(topic(), 1), { code: "unauthenticated" });
    assert.deepEqual(ends.map((error) => error.code), ["unauthenticated"]);
  }
});

test("a revoked token ends its connection and what was read on it", async (t) => {
  const name = topic();
  const { token, id } = await principal(`consume ${name}`);
  const [one, ends] = watched(t, { token });
  const told = [];
  one.subscribe(name, { onStart: () => told.push("start"), onMessage: () => {}, onEnd: (e) => told.push(e.error.code) });
  await until(() => told.length === 1);
  await admin("DELETE", `/v1/tokens/${id}`);
  await until(() => ends.length === 1 && told.length === 2);
  assert.deepEqual(told, ["start", "unauthenticated"]);
  assert.equal(ends[0].code, "unauthenticated");
});

test("a function is asked for a token for each connection, so that a revoked one is replaced", async (t) => {
  const name = topic();
  const [first, second] = [await principal(`consume ${name}`), await principal(`consume ${name}`)];
  const tokens = [first.token, second.token];
  const starts = [];
  const one = client(t, { token: async () => tokens.shift() });
  one.subscribe(name, { onStart: (start) => starts.push(start.resumed), onMessage: () => {} });
  await until(() => starts.length === 1);
  await admin("DELETE", `/v1/tokens/${first.id}`);
  await until(() => starts.length === 2);
  assert.deepEqual(starts, [false, true]);
});

test("a grant that is taken back ends its subscription alone", async (t) => {
  const [name, other] = [topic(), topic()];
  const page = await principal(`consume ${name}`, `consume ${other}`);
  const [one, ends] = watched(t, { token: page.token });
  const told = [];
  const watch = (what) => ({ onStart: () => told.push(`start ${what}`), onMessage: (m) => told.push(m.body) });
  one.subscribe(name, { ...watch("one"), onEnd: ({ error }) => told.push(error.code) });
  one.subscribe(other, watch("other"));
  await until(() => told.length === 2);
  await admin("DELETE", `/v1/principals/${page.name}/grants?grant=${encodeURIComponent(`consume ${name}`)}`);
  await until(() => told.length === 3);
  await client(t, { token: ADMIN }).publish(other, "still");
  await until(() => told.length === 4);
  assert.deepEqual(told.slice(2), ["forbidden", "still"]);
  assert.deepEqual(ends, []);
});
