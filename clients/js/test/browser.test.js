/** The client and the example page in real Chromium. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

import { proxy } from "./proxy.js";
import { client, topic, until, URL_ } from "./world.js";

/** Where this package is served; one of the daemon's `http.origins`. */
const PAGES = process.env.POSTROOM_PAGES_URL;
const SCREENSHOT = process.env.POSTROOM_SCREENSHOT;
const OUTAGE = Number(process.env.POSTROOM_OUTAGE_SECONDS ?? 3) * 1000;
const ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
let context, folder;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "postroom-js-"));
  context = await chromium.launchPersistentContext(folder, {
    executablePath: process.env.POSTROOM_CHROMIUM,
    headless: true,
    args: ARGUMENTS,
    viewport: { width: 1100, height: 760 },
  });
});

after(async () => {
  await context.close();
  await rm(folder, { recursive: true });
});

test("a page loses its connection while prices go on, and misses nothing", { timeout: OUTAGE + 90_000 }, async (t) => {
  const between = await proxy(t, URL_);
  const market = client(t);
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(error));
  const name = topic();
  const query = new URLSearchParams({ broker: between.url, topic: `${name}/#` });
  await page.goto(`${PAGES}/examples/prices.html?${query}`);
  await page.locator("#state[data-state=open]").waitFor();
  await page.getByText("following from here").waitFor();

  const symbols = ["AMBER", "BASALT", "COPAL", "FLINT", "JASPER", "OPAL"];
  const offsets = [];
  const trade = async () => {
    const n = offsets.length;
    const price = 50 + 13 * (n % 6) + 4 * Math.sin(n / 9 + (n % 6)) + n / 40;
    offsets.push((await market.publish(`${name}/${symbols[n % 6]}`, { price })).offset);
  };
  for (let n = 0; n < 120; n++) await trade();

  between.cut();
  await page.locator("#state[data-state=waiting]").waitFor();
  const mended = Date.now() + OUTAGE;
  while (Date.now() < mended) {
    await trade();
    await new Promise((resolve) => setTimeout(resolve, OUTAGE / 200));
  }
  between.mend();
  await page.getByText("nothing was missed").waitFor({ timeout: 60_000 });
  for (let n = 0; n < 60; n++) await trade();

  const shown = () => page.locator("#feed li").evaluateAll((items) => items.map((i) => Number(i.dataset.offset)).reverse());
  await until(async () => (await shown()).length >= offsets.length, "all prices on the page");
  assert.deepEqual(await shown(), offsets);
  assert.equal(await page.locator("#board article").count(), symbols.length);
  assert.deepEqual(faults, []);
  if (SCREENSHOT) await page.screenshot({ path: SCREENSHOT });
});

test("a page publishes, works a queue and reads by EventSource", async (t) => {
  const page = await context.newPage();
  await page.goto(`${PAGES}/examples/prices.html?topic=nothing`);
  const seen = await page.evaluate(
    async ([url, name]) => {
      const { connect } = await import("/src/index.js");
      const client = connect(url);
      const queue = name.replaceAll("/", "-");
      await fetch(`${url}/v1/subscriptions/${queue}`, {
        method: "PUT",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ kind: "queue", topics: [name] }),
      });
      const events = new EventSource(`${url}/v1/stream?topic=${name}`);
      await new Promise((resolve) => events.addEventListener("start", resolve));
      const arrived = new Promise((resolve) => (events.onmessage = (event) => resolve(JSON.parse(event.data).body)));
      const receipt = await client.publish(name, "from a page");
      const worked = await new Promise((resolve) => client.work(queue, (message) => resolve(message.body)));
      const answer = [receipt.duplicate, worked, await arrived];
      events.close();
      client.close();
      return answer;
    },
    [URL_, topic()],
  );
  assert.deepEqual(seen, [false, "from a page", "from a page"]);
});

test("a page of a foreign origin gets nothing", async (t) => {
  const page = await context.newPage();
  await page.goto(PAGES.replace("127.0.0.1", "localhost") + "/examples/prices.html?topic=nothing");
  const outcome = await page.evaluate(async (url) => {
    const fetched = await fetch(`${url}/livez`).then(() => "answered", () => "refused");
    const socket = new WebSocket(`${url.replace("http", "ws")}/v1/stream`);
    const opened = await new Promise((resolve) => {
      socket.onopen = () => resolve("opened");
      socket.onerror = () => resolve("refused");
    });
    return [fetched, opened];
  }, URL_);
  assert.deepEqual(outcome, ["refused", "refused"]);
});
