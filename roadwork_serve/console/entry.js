// Journal entries on a page: their names, and the whole answer of one with its file.

import { mediaUrl } from "./api.js";
import { explain, make } from "./page.js";
import { verdictCard } from "./verdict.js";

export function timeOf(entry) {
  return new Date(entry.created_at).toLocaleString([], { dateStyle: "short", timeStyle: "medium" });
}

export function nameOf(entry) {
  return entry.filename || `${entry.verdict.media} without a name`;
}

// Whether a stage's own probability speaks against the label.
export function disagreement({ verdict }) {
  return verdict.stages.some(({ probability }) => probability != null && (verdict.positive ? probability < 0.5 : probability > 0.5));
}

// The whole answer, and a function that releases its file. Where the browser cannot show a photo, it gets the thumbnail.
export async function wholeAnswer(entry, policy) {
  const path = `/v1/journal/${encodeURIComponent(entry.id)}`, urls = [];
  const url = async (of) => {
    const file = await mediaUrl(`${path}/${of}`);
    urls.push(file.url);
    return file;
  };
  let media = null, problem = entry.media_available ? "" : "The file is not stored; set journal.max_media_gib in the profile to store files.";
  try {
    if (entry.media_available) media = { ...(await url("media")), instead: async () => (await url("thumbnail")).url };
  } catch (error) {
    problem = explain(error);
  }
  const card = verdictCard(entry.verdict, `${nameOf(entry)}, ${timeOf(entry)}`, media, policy);
  if (problem) card.append(make("p", { class: "quiet" }, problem));
  return { card, release: () => urls.forEach((each) => URL.revokeObjectURL(each)) };
}
