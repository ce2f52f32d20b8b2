"""The site's own steps: documents of the repository as pages, and links that leave docs/."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).resolve().parents[2]
LINK: Final = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)#\s]+)(#[^)]*)?\)")

PAGES: Final = {
    "schemas/v1/SPEC.md": "specification.md",
    "schemas/COMPATIBILITY.md": "compatibility.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Files of the repository that are pages of the site, and their names there."""


def on_files(files: Files, config: Any) -> Files:
    """Add the repository's own documents as pages."""
    for path, name in PAGES.items():
        text = (ROOT / path).read_text("utf-8")
        files.append(File.generated(config, name, content=_relinked(text, path, name, config)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links that leave docs/ to the repository, or to the page that stands for the file."""
    source = page.file.src_uri
    if source in PAGES.values():
        return markdown
    return _relinked(markdown, f"docs/{source}", source, config)


def _relinked(text: str, path: str, name: str, config: Any) -> str:
    """Return the text of the repository's file ``path`` as the site's page ``name`` needs it."""

    def link(match: re.Match[str]) -> str:
        start, target, anchor = match[1], match[2], match[3] or ""
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if place in PAGES:
            shown = posixpath.relpath(PAGES[place], posixpath.dirname(name) or ".")
        elif place.startswith("docs/"):
            shown = posixpath.relpath(place.removeprefix("docs/"), posixpath.dirname(name) or ".")
        else:
            kind = "tree" if (ROOT / place).is_dir() else "blob"
            shown = f"{config['repo_url']}/{kind}/main/{place}"
        return f"{start}{shown}{anchor})"

    return LINK.sub(link, text)
