/**
 * Publishes numbers, one after the other, and reads them, while somebody kills the broker again and again.
 * Prints `N` for each hundred that it has read, and ends well when it has read each once and in order.
 */
import assert from "node:assert/strict";

import { connect } from "../src/index.js";

const COUNT = Number(process.argv[2]);
const client = connect(process.env.POSTROOM_HTTP_URL);
const [seen, starts] = [[], []];
const done = new Promise((resolve) => {
  client.subscribe("numbers", {
    onStart: (start) => starts.push(start),
    onMessage(message) {
      seen.push(message.body);
      if (seen.length % 100 === 0) console.log(seen.length);
      if (seen.length === COUNT) resolve();
    },
  });
});
while (starts.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
for (let n = 0; n < COUNT; n++) {
  assert((await client.publish("numbers", n)).offset > 0);
  await new Promise((resolve) => setTimeout(resolve, 2));
}
await done;
assert.deepEqual(seen, Array.from({ length: COUNT }, (_, n) => n));
assert(starts.every((start) => start.recovered));
assert(starts.length > 1, "the broker was never lost");
client.close();
