"""Adds to the site the documents that lie elsewhere in the repository, with links that hold."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGE_BY_DOCUMENT = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "mlflow_carbon/data/README.md": "data.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each of the documents."""
    for document, page in PAGE_BY_DOCUMENT.items():
        text = (ROOT / document).read_text(encoding="utf-8")
        text = re.sub(r"\]\(docs/", "](", text)
        files.append(File.generated(config, page, content=_linked(text, prefix="")))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Points links of a page of docs/ to documents elsewhere at their pages."""
    return _linked(markdown, prefix="../")


def _linked(markdown: str, *, prefix: str) -> str:
    """Returns the text with links to the documents, written from a folder, as links to pages."""
    for document, page in PAGE_BY_DOCUMENT.items():
        markdown = markdown.replace(f"]({prefix}{document}", f"]({page}")
    return markdown
