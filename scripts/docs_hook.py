"""MkDocs hooks: pages outside docs/, notebooks as pages, and links as a code host takes them.

Links are relative to the file they stand in, anywhere in the repository. On the site they lead to
the page made from that file; of files that are no page, their text is left.
"""

import os
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

# Their places in the navigation, and on the site, are their paths in the repository.
OUTSIDE = ("CHANGELOG.md", "recipes/**/README.md", "model_cards/*.md")
# Long lists mention everything: in the search they come after the pages that explain it.
_LISTS = ("features.md", "log.md", "CHANGELOG.md", "results/")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
# mkdocstrings takes Sphinx's roles for text.
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):(?=<code>)")


def outside_pages(root: Path) -> list[Path]:
    """The Markdown files that become pages although they are not in docs/."""
    return [path for pattern in OUTSIDE for path in sorted(root.glob(pattern))]


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown with the outputs that it holds, and its images by relative path.

    An image is described by ``alt`` in the metadata of its cell.
    """
    # Links to images are addresses.
    folder = f"{path.stem}_files"
    notebook = nbformat.read(path, 4)
    found = MarkdownExporter().from_notebook_node(notebook, {"output_files_dir": folder})
    text, outputs = found[0], found[1]["outputs"]
    told = iter([cell.metadata["alt"] for cell in notebook.cells if "alt" in cell.metadata])
    return re.sub(r"!\[[a-z+]+\](?=\()", lambda _: f"![{next(told)}]", text), outputs


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
    """Add the pages that lie outside docs/, and those of the notebooks."""
    root = Path(config.config_file_path).parent
    for path in outside_pages(root):
        place = path.relative_to(root).as_posix()
        files.append(File.generated(config, place, abs_src_path=str(path)))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        place = notebook.src_uri.removesuffix(".ipynb") + ".md"
        text, images = notebook_page(Path(str(notebook.abs_src_path)))
        files.append(File.generated(config, place, content=text))
        for name, content in images.items():
            files.append(
                File.generated(config, f"{posixpath.dirname(place)}/{name}", content=content)
            )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn a page's links into links of the site."""
    places = {file.abs_src_path: file.src_uri for file in files if file.abs_src_path}
    # A link to a notebook is one to its page.
    places = {path: re.sub(r"\.ipynb$", ".md", place) for path, place in places.items()}
    place = page.file.src_uri
    if place.startswith(_LISTS):
        page.meta["search"] = {"boost": 0.3}
    source = page.file.abs_src_path or f"{config.docs_dir}/{place}"
    return with_site_links(markdown, Path(source), place, places)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Leave the roles out of docstrings' references."""
    return _ROLE.sub("", html)
