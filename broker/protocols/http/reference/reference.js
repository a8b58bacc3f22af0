// Shows openapi.json to people: operations by chapter, what they take and answer, and a line of curl for each.
// Text only ever enters the page as text, never as markup.
"use strict";

const METHODS = ["get", "post", "put", "delete", "head"];

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// The only markup of descriptions: paragraphs, and code in backticks.
function prose(text) {
  return text.split("\n\n").map((paragraph) => {
    const parts = paragraph.split("`").map((part, i) => (i % 2 ? element("code", {}, part) : part));
    return element("p", {}, ...parts);
  });
}

class Reference {
  constructor(openapi) {
    this.openapi = openapi;
    this.operations = Object.entries(openapi.paths).flatMap(([path, methods]) =>
      METHODS.filter((method) => method in methods && method !== "head").map((method) => ({ path, method, ...methods[method] })),
    );
  }

  resolve(schema) {
    if (!schema?.$ref) return schema ?? {};
    return schema.$ref.split("/").slice(1).reduce((found, part) => found[part], this.openapi);
  }

  typeOf(schema) {
    if (schema.$ref) return schema.$ref.split("/").pop();
    if (schema.const !== undefined) return JSON.stringify(schema.const);
    if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
    const several = schema.anyOf ?? schema.oneOf;
    if (several) return several.map((one) => this.typeOf(one)).join(" | ");
    if (schema.type === "array") return `list of ${this.typeOf(schema.items ?? {})}`;
    if (schema.type === "object" && schema.additionalProperties?.type) return `map of ${schema.additionalProperties.type}`;
    const bounds = [];
    if (schema.minimum !== undefined) bounds.push(`from ${schema.minimum}`);
    if (schema.maximum !== undefined) bounds.push(`to ${schema.maximum}`);
    if (schema.maxLength !== undefined) bounds.push(`at most ${schema.maxLength} characters`);
    if (schema.default !== undefined && schema.default !== null) bounds.push(`default ${JSON.stringify(schema.default)}`);
    return [schema.type ?? "any value", ...bounds].join(", ");
  }

  // The schemas that stand behind a type: those whose members are worth a table.
  behind(schema, seen = new Set()) {
    if (schema.$ref) {
      if (seen.has(schema.$ref)) return [];
      seen.add(schema.$ref);
      const target = this.resolve(schema);
      return [[this.typeOf(schema), target], ...this.behind(target, seen)];
    }
    const inner = [...Object.values(schema.properties ?? {}), ...(schema.anyOf ?? []), schema.items].filter(Boolean);
    return inner.flatMap((one) => this.behind(one, seen));
  }

  members(schema) {
    const required = new Set(schema.required ?? []);
    const rows = Object.entries(schema.properties ?? {}).map(([name, member]) =>
      row(name, required.has(name) ? "" : "optional", this.typeOf(member), member.description),
    );
    return element("table", {}, ...rows);
  }

  shape(schema) {
    const parts = [element("p", {}, element("code", {}, this.typeOf(schema)))];
    for (const [name, target] of this.behind(schema)) {
      const about = target.description ? prose(target.description) : [];
      parts.push(element("details", {}, element("summary", {}, element("code", {}, name)), ...about, this.members(target)));
    }
    return parts;
  }

  content(content) {
    return Object.entries(content).flatMap(([media, { schema }]) => {
      const named = schema && Object.keys(schema).length > 0 && (schema.$ref || schema.items || schema.anyOf || schema.properties);
      return [element("p", {}, element("code", {}, media)), ...(named ? this.shape(schema) : [])];
    });
  }

  curl({ path, method, parameters = [], requestBody }) {
    const example = (name, place) => parameters.find((one) => one.name === name && one.in === place)?.example;
    const filled = path.replace(/\{(\w+)\}/g, (_, name) => String(example(name, "path") ?? name.toUpperCase()));
    const query = parameters
      .filter((one) => one.in === "query" && (one.required || one.example !== undefined))
      .map((one) => `${one.name}=${one.example ?? ""}`)
      .join("&");
    const words = ["curl", "-sS"];
    if (method !== "get") words.push("-X", method.toUpperCase());
    for (const one of parameters.filter((p) => p.in === "header" && p.example !== undefined)) {
      words.push("-H", `'${one.name}: ${one.example}'`);
    }
    if (requestBody) {
      const [media, { example: body }] = Object.entries(requestBody.content)[0];
      words.push("-H", `'Content-Type: ${media === "*/*" ? "text/plain" : media}'`);
      words.push("-d", body === undefined ? (media === "*/*" ? "'hello'" : "@FILE") : `'${JSON.stringify(body)}'`);
    }
    words.push(`'${location.origin}${filled}${query && `?${query}`}'`);
    return words.join(" ");
  }

  article(operation) {
    const { path, method, summary, description, parameters = [], requestBody, responses } = operation;
    const made = element("article", { id: operation.operationId });
    made.append(
      element("h3", {}, summary),
      element("p", { class: "route" }, element("span", { class: `method ${method}` }, method.toUpperCase()), element("code", {}, path)),
    );
    if (description) made.append(...prose(description));
    if (parameters.length) {
      const rows = parameters.map((one) =>
        row(one.name, `${one.in}${one.required ? "" : ", optional"}`, this.typeOf(one.schema), one.description),
      );
      made.append(element("h4", {}, "Parameters"), element("table", {}, ...rows));
    }
    if (requestBody) {
      made.append(element("h4", {}, "Body"));
      if (requestBody.description) made.append(...prose(requestBody.description));
      made.append(...this.content(requestBody.content));
    }
    made.append(element("h4", {}, "Answers"));
    for (const [status, answer] of Object.entries(responses)) {
      if (answer.$ref) continue;
      made.append(element("p", {}, element("code", {}, status), ` ${answer.description}`), ...this.content(answer.content ?? {}));
    }
    made.append(element("h4", {}, "Try it"), element("pre", {}, element("code", {}, this.curl(operation))));
    return made;
  }

  show() {
    const main = document.getElementById("reference");
    const links = document.getElementById("links");
    document.getElementById("version").textContent = this.openapi.info.version;
    main.replaceChildren(element("h1", {}, "HTTP API"), ...prose(this.openapi.info.description));
    main.append(element("p", {}, "The document itself: ", element("a", { href: "/openapi.json" }, "openapi.json")));
    for (const { name } of this.openapi.tags) {
      const operations = this.operations.filter((one) => one.tags.includes(name));
      if (!operations.length) continue;
      main.append(element("h2", {}, name), ...operations.map((one) => this.article(one)));
      const list = operations.map((one) => element("a", { href: `#${one.operationId}` }, one.summary));
      links.append(element("section", {}, element("h2", {}, name), ...list));
    }
    const problem = this.openapi.components.responses.Problem;
    main.append(element("h2", { id: "problems" }, "Problems"), ...this.content(problem.content));
    document.getElementById("search").addEventListener("input", (event) => this.search(event.target.value));
    if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
  }

  search(text) {
    const wanted = text.trim().toLowerCase();
    for (const one of this.operations) {
      const found = `${one.method} ${one.path} ${one.summary} ${one.description ?? ""}`.toLowerCase().includes(wanted);
      document.getElementById(one.operationId).hidden = !found;
      document.querySelector(`nav a[href="#${one.operationId}"]`).hidden = !found;
    }
  }
}

function row(name, place, type, about) {
  return element(
    "tr",
    {},
    element("td", {}, element("code", {}, name), place ? element("span", { class: "place" }, ` ${place}`) : null),
    element("td", {}, ...(about ? prose(about) : []), element("span", { class: "quiet" }, type)),
  );
}

fetch("/openapi.json")
  .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(`it answered ${answer.status}`))))
  .then((openapi) => new Reference(openapi).show())
  .catch((error) => {
    document.getElementById("state").textContent = `openapi.json could not be shown: ${error.message}.`;
  });
