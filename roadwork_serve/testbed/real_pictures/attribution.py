"""Attribution of the training pictures."""

import hashlib
from collections.abc import Sequence

from roadwork_serve.testbed.real_pictures.sources import Picture


def attribution(pictures: Sequence[Picture]) -> str:
    """Return a Markdown table of sources, licences and counts, with a digest of the names, for NOTICE."""
    rows: dict[tuple[str, str], list[Picture]] = {}
    for picture in pictures:
        rows.setdefault((picture.source, picture.licence), []).append(picture)
    lines = ["| source | licence | groups | pictures | with road work | digest of names |", "|---|---|---|---|---|---|"]
    for (source, licence), some in sorted(rows.items()):
        groups = ", ".join(sorted({picture.group for picture in some}))
        digest = hashlib.sha256("\n".join(sorted(picture.key for picture in some)).encode()).hexdigest()[:12]
        works = sum(picture.label for picture in some)
        lines.append(f"| {source} | {licence} | {groups} | {len(some)} | {works} | {digest} |")
    return "\n".join(lines)
