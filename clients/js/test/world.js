/** What the tests share: the daemon they were given, topics of their own, and waiting. */
import { connect } from "../src/index.js";

/** Of a daemon that was started for these tests. */
export const URL_ = process.env.POSTROOM_HTTP_URL;
let topics = 0;

export function topic() {
  return `js/${process.pid}/${++topics}`;
}

export function client(t, options = {}, url = URL_) {
  const made = connect(url, { random: () => 0, ...options });
  t.after(() => made.close());
  return made;
}

export async function until(condition, what = "it") {
  const deadline = Date.now() + 20_000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`${what} did not come about`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export async function request(method, path, body, headers = {}) {
  const answer = await fetch(URL_ + path, { method, headers, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return answer.status === 204 ? null : answer.json();
}
