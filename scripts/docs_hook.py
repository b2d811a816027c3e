"""MkDocs hooks: the site's pages outside docs/, and links as they are written for a code host.

Links are relative to the file they stand in, anywhere in the repository. On the site they lead to
the page made from that file; of files that are no page, their text is left.
"""

import os
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Their places in the navigation, and on the site, are their paths in the repository.
OUTSIDE = ("CHANGELOG.md", "recipes/**/README.md", "model_cards/*.md")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
# mkdocstrings takes Sphinx's roles for text.
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):(?=<code>)")


def outside_pages(root: Path) -> list[Path]:
    """The Markdown files that become pages although they are not in docs/."""
    return [path for pattern in OUTSIDE for path in sorted(root.glob(pattern))]


def with_site_links(markdown: str, source: Path, place: str, places: Mapping[str, str]) -> str:
    """A page's text with its links to files of the repository turned into links of the site.

    Args:
        markdown: the text.
        source: the absolute path of its file.
        place: the page's place on the site, such as ``results/camvid.md``.
        places: places by absolute path.

    Returns:
        The text. Links to other sites and to files that do not exist are left as they are: MkDocs
        complains of the latter.
    """

    def site_link(match: re.Match[str]) -> str:
        mark, text, link, anchor = match.groups(default="")
        target = os.path.normpath(source.parent / link)
        # Of a folder, a code host shows its README.
        for candidate in (target, f"{target}/README.md"):
            if candidate in places:
                link = posixpath.relpath(places[candidate], posixpath.dirname(place) or ".")
                return f"{mark}[{text}]({link}{anchor})"
        return text if Path(target).exists() and not mark else match[0]

    return _LINK.sub(site_link, markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    root = Path(config.config_file_path).parent
    for path in outside_pages(root):
        place = path.relative_to(root).as_posix()
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn a page's links into links of the site."""
    places = {file.abs_src_path: file.src_uri for file in files if file.abs_src_path}
    return with_site_links(markdown, Path(page.file.abs_src_path or ""), page.file.src_uri, places)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Leave the roles out of docstrings' references."""
    return _ROLE.sub("", html)
