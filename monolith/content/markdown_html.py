"""Sanitises untrusted Markdown from documents, pages and language models, as Markdown or as HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

from monolith.content.fetch import url_problem

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

TAGS = frozenset(
    ["a", "blockquote", "br", "code", "em", "hr", "li", "ol", "p", "pre", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"]
    + [f"h{level}" for level in range(1, 7)]
)
ATTRIBUTES: dict[str, set[str]] = {"*": set(), "a": {"href"}, "ol": {"start"}, "code": {"class"}} | {
    f"h{level}": {"id"} for level in range(1, 7)
}
LINK = re.compile(r"https?://|#", re.IGNORECASE)
LESS_THAN = "\ue000"  # stands for < in text until the Markdown is rendered: some programs read `\<` as the start of a tag
REMOVED = frozenset({"image", "html_inline"})


def sanitise(markdown: str, base_url: str | None = None) -> str:
    """Returns the Markdown without HTML, images and links other than http(s); headings become bold.

    Relative links are resolved against `base_url`; without it, only their text remains.
    """
    parser = _markdown_parser()
    tokens = parser.parse(markdown.replace(LESS_THAN, ""))
    _embolden(tokens)
    kept = [one for token in tokens for one in _blocks(token, base_url)]
    return str(parser.renderer.render(_without_empty(kept), parser.options, {})).strip().replace(LESS_THAN, "&lt;")


def html_of(markdown: str, *, anchors: bool = False) -> str:
    """Renders Markdown as HTML without scripts, images and links other than http(s) and #; `anchors` adds ids to headings."""
    import nh3

    parser = _html_parser()
    tokens = parser.parse(markdown)
    if anchors:
        headings = [(token, after) for token, after in pairwise(tokens) if token.type == "heading_open"]
        for (heading, _), anchor in zip(headings, anchors_of([_inline_text(inline) for _, inline in headings]), strict=True):
            heading.attrSet("id", anchor)
    made = parser.renderer.render(tokens, parser.options, {})
    return nh3.clean(
        made,
        tags=set(TAGS),
        attributes=ATTRIBUTES,
        attribute_filter=lambda tag, name, value: value if name != "href" or LINK.match(value) else None,
        link_rel="noopener noreferrer nofollow",
    )


def anchors_of(headings: list[str]) -> list[str]:
    """Returns the anchor of each heading of a page, as GitHub and others generate them."""
    used: dict[str, int] = {}
    anchors = []
    for heading in headings:
        anchor = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") or "section"
        times = used[anchor] = used.get(anchor, -1) + 1
        anchors.append(f"{anchor}-{times}" if times else anchor)
    return anchors


def escaped(text: str) -> str:
    """Escapes plain text for Markdown, on one line."""
    line = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\`*\[\]>#|~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)


def plain_text(line: str) -> str:
    """Returns the plain text of one line of Markdown."""
    return one_line("".join(_inline_text(inline) for inline in _markdown_parser().parseInline(line)))


def one_line(text: str) -> str:
    """Returns the text on one line, without invisible characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def link(text: str, url: str | None) -> str:
    """Returns a Markdown link; only the text if there is no URL or it is neither http(s) nor an anchor."""
    if not url or not (url.startswith("#") or url_problem(url) is None):
        return escaped(text)
    return f"[{escaped(text)}]({quote(url, safe='/:?#@!$&+,;=%~-._')})"


@cache
def _html_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table")


@cache
def _markdown_parser() -> MarkdownIt:
    """A parser that recognises HTML, so that it can be removed, and renders Markdown."""
    from markdown_it import MarkdownIt
    from mdformat.plugins import PARSER_EXTENSIONS
    from mdformat.renderer import MDRenderer

    parser = MarkdownIt("commonmark", {"html": True}, renderer_cls=MDRenderer)  # type: ignore[arg-type]  # documented by mdformat
    tables = PARSER_EXTENSIONS["tables"]
    parser.options["mdformat"] = {"number": True}
    parser.options["parser_extension"] = [tables]
    tables.update_mdit(parser)
    parser.validateLink = lambda url: True  # type: ignore[method-assign]  # parsed as links, so that `_inline` can remove them
    return parser


def _embolden(tokens: list[Token]) -> None:
    """Turns headings into bold paragraphs: they would break the outline of the text that quotes them."""
    from markdown_it.token import Token

    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            bold = [Token("strong_open", "strong", 1, markup="**"), Token("strong_close", "strong", -1, markup="**")]
            inline.children = [bold[0], *(inline.children or []), bold[1]]
        if token.type in ("heading_open", "heading_close"):
            token.type, token.tag, token.markup = token.type.replace("heading", "paragraph"), "p", ""


def _blocks(token: Token, base_url: str | None) -> Iterator[Token]:
    """The tokens that replace this one."""
    if token.type == "html_block":
        yield from _paragraph_of_html(token.content)
    elif token.type == "hr":
        return
    else:
        if token.type == "fence":
            token.info = re.sub(r"[^\w+#.-].*", "", token.info)
            token.content = token.content.rstrip("\n") + "\n"  # an unclosed fence would include what follows
        if token.type == "inline":
            token.children = _inline(token, base_url)
        yield token


def _inline(token: Token, base_url: str | None) -> list[Token]:
    """The inline content, without links that are empty or not http(s)."""
    kept: list[Token] = []
    is_open: list[bool] = []
    for child in token.children or []:
        if child.type == "link_open":
            url = _target(str(child.attrs.get("href", "")), base_url)
            is_open.append(bool(url))
            if not url:
                continue
            child.attrs, child.meta = {"href": url}, {}
        if child.type == "link_close" and not is_open.pop():
            continue
        if child.type in REMOVED:
            child = _text("\n" if child.content.lower().startswith("<br") else "")
        if child.type in ("text", "text_special"):
            child.content = child.content.replace("<", LESS_THAN)
        if child.type == "link_close" and _is_empty_link(kept):
            while kept.pop().type != "link_open":
                continue
        else:
            kept.append(child)
    if kept and kept[0].type == "text":
        kept[0].content = kept[0].content.lstrip()
    return kept


def _is_empty_link(kept: list[Token]) -> bool:
    """Whether the link that is about to close has no text, such as that of an image."""
    for token in reversed(kept):
        if token.type == "link_open":
            return True
        if token.content.strip():
            return False
    return False


def _target(href: str, base_url: str | None) -> str:
    """The http(s) URL that a link leads to, or an empty string."""
    try:
        url = urljoin(base_url or "", href.strip())
    except ValueError:
        return ""
    return "" if url_problem(url) else url


def _without_empty(tokens: list[Token]) -> list[Token]:
    """Removes paragraphs without text."""
    kept: list[Token] = []
    for token in tokens:
        if (
            token.type == "paragraph_close"
            and kept[-1].type == "inline"
            and not any(one.content.strip() for one in kept[-1].children or [])
        ):
            del kept[-2:]
        else:
            kept.append(token)
    return kept


def _paragraph_of_html(markup: str) -> list[Token]:
    """A paragraph with the text of a block of HTML."""
    import nh3
    from markdown_it.token import Token

    text = " ".join(html.unescape(nh3.clean(markup, tags=set())).split())
    inline = Token("inline", "", 0, content=text, children=[_text(text.replace("<", LESS_THAN))], block=True)
    return [Token("paragraph_open", "p", 1, block=True), inline, Token("paragraph_close", "p", -1, block=True)]


def _text(text: str) -> Token:
    from markdown_it.token import Token

    return Token("text", "", 0, content=text)


def _inline_text(inline: Token) -> str:
    return "".join(child.content for child in inline.children or [] if child.type in ("text", "text_special", "code_inline"))


def html_page(title: str, body: str) -> str:
    """Returns a complete HTML page. Its Content-Security-Policy forbids everything but its own styles."""
    return _PAGE.format(title=html.escape(one_line(title)), body=body)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.6 system-ui, sans-serif; overflow-wrap: anywhere; }}
h1, h2, h3 {{ line-height: 1.25; }}
h2 {{ margin-top: 2.5rem; }}
blockquote {{ margin: 1rem 0; padding: 0.1rem 0 0.1rem 1rem; border-left: 3px solid #8886; }}
pre {{ padding: 0.75rem 1rem; overflow-x: auto; background: #8882; border-radius: 6px; }}
code {{ font-size: 0.9em; }}
table {{ display: block; overflow-x: auto; border-collapse: collapse; }}
th, td {{ padding: 0.3rem 0.6rem; border: 1px solid #8886; text-align: left; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
