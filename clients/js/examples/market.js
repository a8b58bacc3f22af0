/** Publishes invented prices, five a second, for prices.html: `node examples/market.js [URL]` (Ctrl-C ends it). */
import { connect } from "../src/index.js";

const client = connect(process.argv[2] ?? "http://127.0.0.1:7680");
const prices = { AMBER: 84.1, BASALT: 12.75, COPAL: 230.4, FLINT: 47.3, JASPER: 156.2, OPAL: 68.9 };

setInterval(() => {
  const symbols = Object.keys(prices);
  const symbol = symbols[Math.floor(Math.random() * symbols.length)];
  prices[symbol] *= 1 + (Math.random() - 0.495) * 0.012;
  client.publish(`prices/${symbol}`, { price: Number(prices[symbol].toFixed(2)) }, { key: symbol });
}, 200);
