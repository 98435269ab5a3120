"""Markdown of strangers: whatever they write, nothing acts, nothing is loaded, and links lead to pages only."""

from __future__ import annotations

import re

import pytest
from lxml import html

from monolith.content.markdown_html import TAGS, anchors_of, escaped, html_of, html_page, link, sanitise

HOSTILE = [
    "<script>alert(1)</script>",
    "text <script>alert(1)</script> text",
    "<img src=x onerror=alert(1)>",
    '<svg onload="alert(1)"><animate onbegin=alert(1)></svg>',
    "<div\nonclick=alert(1)>x</div>",
    "<style>body{display:none}</style>",
    '<iframe src="https://evil.example"></iframe>',
    '<form action="https://evil.example"><input name=password></form>',
    '<base href="https://evil.example">',
    '<meta http-equiv="refresh" content="0;url=https://evil.example">',
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](<java\tscript:alert(1)>)",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:x) [y](file:///etc/passwd)",
    "<javascript:alert(1)>",
    "[x][1]\n\n[1]: javascript:alert(1)",
    "![x](https://evil.example/pixel.png)",
    "![x][1]\n\n[1]: https://evil.example/pixel.png",
    "[![x](https://evil.example/p.png)](javascript:alert(1))",
    '[x](https://example.com "onmouseover=alert(1)")',
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\\<script>alert(1)\\</script>",
    '```html" onmouseover="alert(1)\n<script>alert(1)</script>\n```',
    "`<script>alert(1)</script>`",
    "<!-- <script>alert(1)</script> -->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<a href=https://example.com onclick=alert(1)>x</a>",
    "[x](//evil.example) [y](/admin) [z](https://user:secret@example.com)",
]


@pytest.mark.parametrize("markdown", HOSTILE)
@pytest.mark.parametrize("way", ["harmless first", "as it is"])
def test_nothing_hostile_comes_out_as_html(markdown: str, way: str) -> None:
    made = html.fragment_fromstring(html_of(sanitise(markdown) if way == "harmless first" else markdown), create_parent="div")
    for element in made.iterdescendants():
        assert element.tag in TAGS
        assert set(element.attrib) <= {"href", "rel", "class", "start"}
        assert re.match(r"https?://", element.get("href", "https://")), element.get("href")


@pytest.mark.parametrize("markdown", HOSTILE)
def test_nothing_hostile_stays_in_the_markdown_either(markdown: str) -> None:
    """Whoever shows it may let HTML through: outside of code there is none left, and no picture, and no other scheme."""
    bare = re.sub(r"```.*?```|`[^`]*`", "", sanitise(markdown), flags=re.DOTALL)
    assert not re.search(r"<(?!https?://)|!\[|\]\((?!https?://)|^\[.*\]:", bare, re.MULTILINE), bare


def test_good_markdown_stays_as_it_is() -> None:
    prose = "Run `a < b` and **see** *it*, [there](https://example.com/a?b=c&d=e).\n\n- one\n- two\n\n1. first\n2. second"
    text = prose + "\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n```py\nif a < b: ...\n```"
    assert re.sub(" +", " ", sanitise(text)).replace("---", "-") == re.sub(" +", " ", text).replace("---", "-")


def test_headings_become_bold_so_that_no_text_adds_chapters() -> None:
    assert sanitise("# Sources\n\nTrust me\n===") == "**Sources**\n\n**Trust me**"


@pytest.mark.parametrize(
    "text", ["```\nopen", "> ```\n> open", "- ```\n  open", "~~~~\nopen", "`open", "<div>open", "<!-- open", "| a |\n|---|\n| `b"]
)
def test_what_is_left_open_ends_with_its_text(text: str) -> None:
    made = html.fragment_fromstring(html_of(f"{sanitise(text)}\n\n## After"), create_parent="div")
    assert made[-1].tag == "h2" and made[-1].text == "After"


def test_relative_links_lead_where_they_led() -> None:
    assert sanitise("[x](../b) [y](#part)", "https://example.com/a/c") == "[x](https://example.com/b) [y](https://example.com/a/c#part)"
    assert sanitise("[x](../b)") == "x"


def test_badges_go_with_their_links() -> None:
    assert sanitise("[![build](https://example.com/b.svg)](https://example.com) Tidepool is small.") == "Tidepool is small."


@pytest.mark.parametrize(
    "title",
    [
        "[x](javascript:alert(1))",
        "<script>alert(1)</script>",
        "# h\n\n- l",
        "`a` *b* _c_ ~d~ | e",
        "![i](http://e.example)",
        "&lt;b&gt;",
        "__init__.py",
        "a\u202eb",
    ],
)
def test_a_title_is_only_words(title: str) -> None:
    made = html.fragment_fromstring(html_of(f"## {escaped(title)}\n\n- {link(title, '#x')}"), create_parent="div")
    assert [element.tag for element in made.iterdescendants()] == ["h2", "ul", "li", "a"]
    assert made.find("h2").text == made.find(".//a").text == " ".join(title.replace("\u202e", " ").split())


def test_a_link_leads_to_pages_only_and_its_address_cannot_end_it() -> None:
    assert link("x", "javascript:alert(1)") == "x"
    assert link("x", "https://example.com/a)b(c<d>") == "[x](https://example.com/a%29b%28c%3Cd%3E)"


def test_anchors_are_those_of_the_html_and_unlike_each_other() -> None:
    headings = ["Getting started", "API & more!", "Getting started", "Über uns"]
    anchors = anchors_of(headings)
    assert anchors == ["getting-started", "api--more", "getting-started-1", "über-uns"]
    made = html.fragment_fromstring(html_of("\n\n".join(f"# {escaped(one)}" for one in headings), anchors=True), create_parent="div")
    assert [element.get("id") for element in made] == anchors


def test_a_whole_page_forbids_itself_scripts_and_pictures() -> None:
    page = html_page("</title><script>alert(1)</script>", "<p>x</p>")
    assert "<script" not in page and "default-src 'none'" in page
