"""The site of docs/ is built without a warning, and holds all that it shows."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
# what a <link> loads; others only name an address
LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "manifest"}

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a page of HTML loads, where it leads, and which anchors it has."""

    def __init__(self, path: Path):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors.update(attributes[name] for name in ("id", "name") if name in attributes)
        address = attributes.get(LOADED.get(tag, ""))
        is_named_only = tag == "link" and not LOADED_LINKS & set(attributes["rel"].split())
        if address and not is_named_only:
            self.loads.append(address)
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; a warning of MkDocs is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Every page by its path in the site."""
    return {path.relative_to(site): Page(path) for path in site.rglob("*.html")}


def test_every_page_of_docs_is_on_the_site_and_in_its_menu(pages):
    names = {page.stem for page in (ROOT / "docs").glob("*.md")}
    names |= {"changelog", "contributing", "security", "data"}
    assert {Path(f"{name}.html") for name in names} <= pages.keys()
    in_menu = set(pages[Path("index.html")].links)
    assert {f"{name}.html" for name in names} <= in_menu


def test_every_link_leads_somewhere(site, pages):
    for path, page in pages.items():
        if path.name == "404.html":  # its links are those of the root of a server
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (site / path.parent / unquote(parts.path)) if parts.path else site / path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path}: {link}"
            if parts.fragment and target.suffix == ".html":
                anchors = pages[target.resolve().relative_to(site.resolve())].anchors
                assert unquote(parts.fragment) in anchors, f"{path}: {link}"


def test_pages_load_nothing_from_elsewhere(site, pages):
    for path, page in pages.items():
        for address in page.loads:
            assert not urlsplit(address).netloc, f"{path} loads {address}"
    for style in site.rglob("*.css"):
        found = re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']+", style.read_text())
        assert found == [], style


def test_links_to_documents_beside_docs_lead_to_their_pages(pages):
    assert "security.html" in pages[Path("registry.html")].links
    assert "data.html" in pages[Path("measurement.html")].links
    assert "contract.html" in pages[Path("security.html")].links
