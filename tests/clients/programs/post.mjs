// Posts each file with Node's fetch, as it is and in a form. Arguments: a URL, then pairs of type and file.
import { readFile } from "node:fs/promises";

const [url, ...given] = process.argv.slice(2);
for (let at = 0; at < given.length; at += 2) {
  const data = await readFile(given[at + 1]), form = new FormData();
  form.append("file", new Blob([data], { type: given[at] }));
  form.append("deadline_ms", "20000");
  const plain = await fetch(url, { method: "POST", body: data, headers: { "Content-Type": given[at] } });
  console.log(await plain.text());
  console.log(await (await fetch(url, { method: "POST", body: form })).text());
}
