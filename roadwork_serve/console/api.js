// What the server is asked, and errors in words.

const KEY = "roadwork-key"; // for this tab alone, gone when it is closed

export function key() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function keep(secret) {
  if (secret) sessionStorage.setItem(KEY, secret);
  else sessionStorage.removeItem(KEY);
}

export class Problem extends Error {
  constructor(title, detail, status) {
    super(detail ? `${title}: ${detail}` : title);
    this.status = status;
  }
}

async function answer(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key()) headers.set("X-API-Key", key());
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Problem("The server cannot be reached", "is it still running?", 0);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Problem(told.title ?? `The server answered ${response.status}`, told.detail ?? "", response.status);
}

export async function ask(path, options) {
  return (await answer(path, options)).json();
}

export async function send(path, body, method = "POST") {
  return ask(path, { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
}

// An image or a clip behind a key cannot be a plain `src`. The caller revokes the URL.
export async function picture(path) {
  const blob = await (await answer(path)).blob();
  return { url: URL.createObjectURL(blob), clip: blob.type.startsWith("video/") };
}
