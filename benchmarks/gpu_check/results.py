"""The results of a GPU: a JSON file with an entry for each part, and the tables that are made from them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Results:
    """A file of results. Each part is written as soon as it is measured, so that a broken-off check goes on later."""

    path: Path
    gpu: str

    def read(self) -> dict[str, Any]:
        """Return the entries by part; empty without a file.

        Raises:
            ValueError: The file is of another GPU.
        """
        if not self.path.is_file():
            return {}
        found = json.loads(self.path.read_text(encoding="utf-8"))
        if found["gpu"] != self.gpu:
            raise ValueError(f"{self.path} has the results of {found['gpu']}, and this GPU is {self.gpu}: use --out")
        return found["parts"]

    def write(self, part: str, entry: Mapping[str, Any]) -> None:
        """Add or replace the entry of a part."""
        parts = self.read() | {part: dict(entry)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"gpu": self.gpu, "parts": parts}, indent=1)
        self.path.write_text(text + "\n", encoding="utf-8")


def tables(gpu: str, parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = [f"### {gpu}", ""]
    if starts := parts.get("start", {}).get("engines"):
        lines += ["| engine | model | start, s | peak, GiB | planned, GiB |", "| --- | --- | --- | --- | --- |"]
        for each in starts:
            planned = "" if each["planned_gib"] is None else f"{each['planned_gib']:.1f}"
            cells = (each["engine"], each["model"], f"{each['seconds']:.0f}", f"{each['peak_gib']:.1f}", planned)
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    if stages := parts.get("latency", {}).get("stages"):
        lines += ["| stage | in flight | median, ms | p90, ms | items/s |", "| --- | --- | --- | --- | --- |"]
        for each in stages:
            lines.append(
                f"| {each['stage']} | {each['in_flight']} | {each['median_ms']:.1f} | {each['p90_ms']:.1f} | "
                f"{each['per_s']:.1f} |"
            )
        lines.append("")
    if backbone := parts.get("backbone", {}).get("batches"):
        lines += ["| stage 1, thumbnails in a batch | ms | thumbnails/s |", "| --- | --- | --- |"]
        lines += [f"| {each['batch']} | {each['median_ms']:.2f} | {each['per_s']:.0f} |" for each in backbone]
        lines.append("")
    for part, text in _SENTENCES.items():
        if (entry := parts.get(part)) and "error" not in entry:
            lines.append(f"- {text.format(**entry)}")
    lines += [f"- {part} failed: {entry['error']}" for part, entry in parts.items() if "error" in entry]
    return "\n".join(lines) + "\n"


_SENTENCES = {
    "agreement": "P(YES) of {photos} photos by vLLM {vllm_version} (VLLM_USE_V2_MODEL_RUNNER: {runner}) and by "
    "transformers differs by at most {largest:.4f}.",
    "reasoning": "{tokens} tokens of reasoning take {alone_s:.2f} s alone and {loaded_s:.2f} s under {photos} photos.",
    "cascade": "The cascade answers {per_s:.1f} photos a second with {in_flight} in flight; median {median_ms:.0f} ms.",
}
