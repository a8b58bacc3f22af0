/** Messages as applications have them, and as the broker writes them in JSON. */

const TEXT = "text/plain; charset=utf-8";
const OPTIONS = { key: "key", headers: "headers", priority: "priority", delay: "delay", ttl: "ttl" };

/**
 * Text goes as text, bytes as bytes, everything else as JSON. Every message gets an id, so that it may be sent again.
 * @param {string} topic
 * @param {unknown} body
 * @param {Record<string, any>} options
 */
export function encode(topic, body, options = {}) {
  const draft = { topic, id: options.id ?? randomId(), ...content(body, options.contentType) };
  for (const [given, name] of Object.entries(OPTIONS)) {
    if (options[given] !== undefined) draft[name] = options[given];
  }
  return draft;
}

function content(body, contentType) {
  if (body instanceof ArrayBuffer) body = new Uint8Array(body);
  if (ArrayBuffer.isView(body)) {
    const bytes = new Uint8Array(body.buffer, body.byteOffset, body.byteLength);
    return { body_base64: toBase64(bytes), ...(contentType && { content_type: contentType }) };
  }
  if (body === undefined) throw new TypeError("undefined has no form in JSON; pass null for nothing");
  return { body, content_type: contentType ?? (typeof body === "string" ? TEXT : "application/json") };
}

/** What the broker sent, with names as JavaScript has them; a body that is neither JSON nor text is a Uint8Array. */
export function decode(raw) {
  return {
    id: raw.id,
    offset: raw.offset,
    position: raw.position,
    topic: raw.topic,
    key: raw.key,
    headers: raw.headers,
    contentType: raw.content_type,
    priority: raw.priority,
    publishedAt: new Date(raw.published_at),
    ...(raw.attempt !== undefined && { attempt: raw.attempt }),
    body: raw.body_base64 === undefined ? raw.body : fromBase64(raw.body_base64),
  };
}

/** What the broker says of a message that it stored. */
export function decodeReceipt(raw) {
  const { id, offset, position, duplicate, due } = raw;
  return { id, offset, position, duplicate, ...(due !== undefined && { due: new Date(due) }) };
}

function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
