// Requests to the server, and its errors.

// In memory only: no other page of this origin can read it. A link from the server's terminal carries the admin token behind
// the #, which browsers do not send.
let apiKey = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
if (apiKey) history.replaceState(null, "", location.pathname + location.search);

export function key() {
  return apiKey;
}

export function setKey(secret) {
  apiKey = secret;
}

export class Problem extends Error {
  constructor(title, detail, status) {
    super(detail ? `${title}: ${detail}` : title);
    this.status = status;
  }
}

async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key()) headers.set("X-API-Key", key());
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Problem("The server cannot be reached", "check that it is running", 0);
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new Problem(problem.title ?? `The server answered ${response.status}`, problem.detail ?? "", response.status);
}

export async function getJson(path, options) {
  return (await request(path, options)).json();
}

export async function sendJson(path, body, method = "POST") {
  return getJson(path, { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
}

// An image or a clip behind a key cannot be a plain `src`. The caller revokes the URL.
export async function mediaUrl(path) {
  const blob = await (await request(path)).blob();
  return { url: URL.createObjectURL(blob), clip: blob.type.startsWith("video/") };
}
