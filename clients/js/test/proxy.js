/** A TCP proxy before the broker, which breaks all connections when told to. */
import net from "node:net";

export async function proxy(t, target) {
  const { hostname, port } = new URL(target);
  const sockets = new Set();
  let cut = false;
  const server = net.createServer((socket) => {
    if (cut) return socket.destroy();
    const upstream = net.connect(Number(port), hostname);
    for (const [one, other] of [[socket, upstream], [upstream, socket]]) {
      sockets.add(one);
      one.on("data", (data) => other.write(data));
      one.on("error", () => {});
      one.on("close", () => (sockets.delete(one), other.destroy()));
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => (server.close(), sockets.forEach((socket) => socket.destroy())));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cut() {
      cut = true;
      sockets.forEach((socket) => socket.destroy());
    },
    mend() {
      cut = false;
    },
  };
}
