/** A refusal of the broker's: `code` is stable, `message` tells a person what to do, `problem` is the whole document. */
export class PostroomError extends Error {
  /** @param {{code?: string, title?: string, detail?: string}} problem */
  constructor(problem) {
    super([problem.title, problem.detail].filter(Boolean).join(" "));
    this.name = "PostroomError";
    this.code = problem.code ?? "internal";
    this.problem = problem;
  }
}

/** The connection broke, or the client was closed, before this was answered: whether it happened is unknown. */
export class ConnectionLost extends Error {
  constructor(message = "the connection broke before the answer came") {
    super(message);
    this.name = "ConnectionLost";
  }
}

/** The lease of this message had ended, so that this settle did nothing: it goes, or went, to another worker. */
export class LeaseLost extends Error {
  constructor() {
    super("the lease has ended; the message goes to another worker");
    this.name = "LeaseLost";
  }
}

/** Reading could not go on where it stopped: messages before `position` are gone. Load your state anew. */
export class GapError extends Error {
  /** @param {string} position */
  constructor(position) {
    super(`reading could not go on where it stopped; it begins anew after ${position}`);
    this.name = "GapError";
    this.position = position;
  }
}

/** What an application's own callback threw is its own affair: it is told, and we go on. */
export function report(error) {
  if (globalThis.reportError) globalThis.reportError(error);
  else console.error(error);
}
