// mqtt.js as a process: a line of JSON says what to do, and one tells what came of it.
import { createInterface } from "node:readline";
import mqtt from "mqtt";

const tell = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
let client;

const acts = {
  async open({ url, options, filters }) {
    if (options.will) options.will.payload = Buffer.from(options.will.payload);
    client = mqtt.connect(url, { ...options, reconnectPeriod: 0, manualConnect: true });
    client.on("message", (topic, payload, { qos, retain }) => tell({ topic, payload: payload.toString(), qos, retain }));
    const connected = new Promise((resolve, reject) => {
      client.once("connect", resolve);
      client.once("error", reject);
    });
    client.connect();
    await connected;
    client.on("error", () => {});
    if (Object.keys(filters).length) await client.subscribeAsync(filters);
  },
  publish: ({ topic, payload, qos, retain }) => client.publishAsync(topic, payload, { qos, retain }),
  async close() {
    await client?.endAsync(!client.connected);
    lines.close();
  },
};

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const { act, ...rest } = JSON.parse(line);
  acts[act](rest).then(
    () => tell({ done: act }),
    (error) => tell({ failed: String(error) }),
  );
});
