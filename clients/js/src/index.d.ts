export type State = "connecting" | "open" | "waiting" | "closed";

export interface ConnectOptions {
  /** A token of the broker's, or what gives one for each connection. Sent as `access_token`. */
  token?: string | (() => string | Promise<string>);
  /** The WebSocket class, where there is none built in (Node before 22). */
  WebSocket?: new (url: string | URL) => WebSocket;
  /** Told of each change; `error` says why a connection was lost or could not be made. */
  onState?: (state: State, error: Error | null) => void;
  /** Numbers from 0 to 1, for the waits between tries. */
  random?: () => number;
}

export interface PublishOptions {
  /** Stored once on its topic, however often it is sent; made when it is not given. */
  id?: string;
  key?: string;
  headers?: Record<string, string>;
  /** Default: JSON; text for a string; none for bytes. */
  contentType?: string;
  /** 0 to 9, 9 goes first. */
  priority?: number;
  /** Seconds, or `"500ms"`, `"30s"`, `"5m"`, `"2h"`, `"7d"`. */
  delay?: number | string;
  ttl?: number | string;
}

export interface Receipt {
  id: string;
  /** null for a delayed message, which has `due`, and for one to a topic that is kept in memory alone, in no log. */
  offset: number | null;
  position: string | null;
  /** It was stored before: by an earlier publish with this id, or by the try whose answer a lost connection swallowed. */
  duplicate: boolean;
  due?: Date;
}

export interface Message {
  id: string;
  offset: number;
  position: string;
  topic: string;
  key: string | null;
  headers: Record<string, string>;
  contentType: string | null;
  priority: number;
  publishedAt: Date;
  /** A JSON value, a string for text, else a Uint8Array. */
  body: any;
}

/** A message of a queue, under a lease. Each method resolves after the commit and rejects with LeaseLost when it came too late. */
export interface Delivery extends Message {
  /** From 1. */
  attempt: number;
  ack(): Promise<void>;
  retry(how?: { delay?: number | string; error?: string }): Promise<void>;
  reject(error?: string): Promise<void>;
  release(): Promise<void>;
}

export interface Start {
  /** Reading begins, or goes on, exactly where it was asked to. False: messages before `position` are gone. */
  recovered: boolean;
  position: string;
  /** This is the same subscription on a new connection. */
  resumed: boolean;
}

export interface SubscribeOptions {
  /** `earliest`, `latest` (default), an offset, a position, or an RFC 3339 time. */
  from?: string | number;
  /** What the broker does when this reader is behind: STREAM.md. Default `wait`: nothing is left out. */
  slow?: "wait" | "drop" | "thin";
  /** A named stream: read from its cursor, which `commit` moves. Pass null, or filters that narrow it, as topics. */
  subscription?: string;
  /** With `onMessage`: so many messages come before you `grant` more. */
  credit?: number;
  /** Without it, the subscription is an async iterable. */
  onMessage?: (message: Message, subscription: Subscription) => void;
  onStart?: (start: Start, subscription: Subscription) => void;
  /** With `slow: "thin"`: so many messages up to `position` were left out. */
  onThinned?: (thinned: { leftOut: number; position: string }, subscription: Subscription) => void;
  /** No more comes; `error` is null when you unsubscribed. */
  onEnd?: (end: { error: Error | null; position: string | null }, subscription: Subscription) => void;
}

export interface Subscription extends AsyncIterable<Message> {
  readonly position: string | null;
  unsubscribe(): void;
  grant(messages: number): void;
  commit(position?: string): Promise<void>;
}

export interface WorkOptions {
  /** Messages in hand at a time; default 8. */
  concurrency?: number;
  /** What a handler threw, what a settle failed with, and, with null, what ended the worker. Default: to the console. */
  onError?: (error: any, delivery: Delivery | null) => void;
}

export interface Worker {
  /** Take no more; resolves when what is in hand is settled. */
  stop(): Promise<void>;
}

export class Client {
  readonly state: State;
  /** Resolves after the commit, over lost connections too. Rejects with the broker's code: `message_too_large`, and
   * `bad_frame` when it closed the connection at something that it cannot read, such as a body nested a thousand deep;
   * what else was unanswered then is rejected too, and may be published again with its id. */
  publish(topic: string, body: unknown, options?: PublishOptions): Promise<Receipt>;
  publishMany(messages: ({ topic: string; body: unknown } & PublishOptions)[]): Promise<Receipt[]>;
  subscribe(topics: string | string[] | null, options?: SubscribeOptions): Subscription;
  work(queue: string, handler: (delivery: Delivery) => unknown, options?: WorkOptions): Worker;
  close(): void;
}

export function connect(url?: string, options?: ConnectOptions): Client;

export class PostroomError extends Error {
  readonly code: string;
  readonly problem: { code?: string; title?: string; detail?: string; status?: number };
}
export class ConnectionLost extends Error {}
export class LeaseLost extends Error {}
export class GapError extends Error {
  readonly position: string;
}
/** Throw it in a worker's handler when trying again cannot help. */
export class Reject extends Error {
  constructor(reason?: string);
}
