/** Client of the Postroom message broker, for browsers and Node. STREAM.md of the broker is what it speaks. */
export { Client, connect } from "./client.js";
export { ConnectionLost, GapError, LeaseLost, PostroomError } from "./errors.js";
export { Reject } from "./worker.js";
