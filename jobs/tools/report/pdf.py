"""The PDF of a report: headings, tiles, tables and page numbers in one style. Characters missing in the fonts become boxes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpdf import FPDF
from fpdf.enums import Align, TableBordersLayout
from fpdf.fonts import FontFace

from monolith.content.markdown_html import one_line

FONTS = Path(__file__).parent / "fonts"
FONT = "DejaVu"
TEXT, MUTED, LINE, BACKGROUND = (27, 27, 26), (91, 90, 85), (228, 227, 222), (248, 248, 246)
MARGIN = 16.0
LINE_HEIGHT = 5.0
UNKNOWN = "\u25a1"
MAX_CELL = 90  # characters in a table cell

logging.getLogger("fpdf").setLevel(logging.ERROR)  # it warns about every character that a font lacks
logging.getLogger("fontTools").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, its share of the width, and whether it holds numbers."""

    name: str
    share: float
    is_number: bool = True


class ReportPdf(FPDF):
    """A4 pages with the title and a page number in the footer."""

    def __init__(self, title: str) -> None:
        super().__init__(format="A4")
        self.name = one_line(title)
        self.set_title(self.name)
        self.set_margins(MARGIN, MARGIN, MARGIN)
        self.set_auto_page_break(True, margin=18)
        self.add_font(FONT, "", FONTS / "DejaVuSans.ttf")
        self.add_font(FONT, "B", FONTS / "DejaVuSans-Bold.ttf")
        self._available = set(getattr(self.fonts[FONT.lower()], "cmap", ()))
        self.set_text_shaping(True)  # joins Arabic letters and handles right-to-left scripts
        self.add_page()

    def footer(self) -> None:
        """Draws the footer; fpdf2 calls it at the end of each page."""
        self.set_y(-13)
        self.write_in(MUTED, 7.5)
        self.cell(self.epw / 2, 4, self.name)
        self.cell(self.epw / 2, 4, f"Page {self.page_no()} of {{nb}}", align=Align.R)

    def write_in(self, colour: tuple[int, int, int], size: float, *, is_bold: bool = False) -> None:
        """Sets the colour (RGB) and size (points) of the following text."""
        self.set_font(FONT, "B" if is_bold else "", size)
        self.set_text_color(*colour)

    def title_line(self, text: str, subtitle: Sequence[str]) -> None:
        """Writes the title of the report with the lines of its subtitle."""
        self.write_in(TEXT, 20, is_bold=True)
        self.cell(0, 11, text, new_x="LMARGIN", new_y="NEXT")
        self.write_in(MUTED, 9)
        for line in subtitle:
            self.multi_cell(0, LINE_HEIGHT, self.writable(line), new_x="LMARGIN", new_y="NEXT", align=Align.L)

    def heading(self, text: str, room: float = 40) -> None:
        """Writes a heading, on a new page if less than `room` millimetres are left on this one."""
        self.ln(7)
        if self.will_page_break(room):
            self.add_page()
        self.write_in(TEXT, 12, is_bold=True)
        self.cell(0, 8, text, new_x="LMARGIN", new_y="NEXT")

    def paragraph(self, text: str) -> None:
        """Writes a paragraph."""
        self.write_in(MUTED, 9)
        self.multi_cell(0, LINE_HEIGHT, text, new_x="LMARGIN", new_y="NEXT", align=Align.L)

    def tiles(self, figures: Sequence[tuple[str, str, str]]) -> None:
        """Draws figures side by side; each is (name, value, note)."""
        gap, height = 3.0, 23.0
        width = (self.epw - gap * (len(figures) - 1)) / len(figures)
        top = self.get_y() + 4
        for place, (words, figure, below) in enumerate(figures):
            left = self.l_margin + place * (width + gap)
            self.set_fill_color(*BACKGROUND)
            self.rect(left, top, width, height, style="F", round_corners=True, corner_radius=2)
            self.write_in(MUTED, 8)
            self.text_at(left + 3, top + 2.5, width - 5, words)
            self.write_in(TEXT, 13, is_bold=True)
            self.text_at(left + 3, top + 7.5, width - 5, figure, height=8)
            self.write_in(MUTED, 7)
            self.text_at(left + 3, top + 16.5, width - 5, below)
        self.set_xy(self.l_margin, top + height)

    def text_at(self, x: float, y: float, width: float, text: str, *, height: float = 4, align: Align = Align.L) -> None:
        """Writes one line at a position in millimetres, cut to `width`."""
        self.set_xy(x, y)
        self.cell(width, height, self._cut(text, width), align=align)

    def _cut(self, text: str, width: float) -> str:
        """The text, shortened to at most `width` millimetres."""
        text = self.writable(text)
        if self.get_string_width(text) <= width:
            return text
        while text and self.get_string_width(f"{text}…") > width:
            text = text[:-1]
        return f"{text.rstrip()}…"

    def rows(self, columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> None:
        """Draws a table; its headings are repeated on every page."""
        self.ln(1)
        self.write_in(TEXT, 8)
        self.set_draw_color(*LINE)
        self.set_fill_color(255, 255, 255)
        with self.table(
            col_widths=tuple(column.share for column in columns),
            text_align=tuple(Align.R if column.is_number else Align.L for column in columns),
            borders_layout=TableBordersLayout.HORIZONTAL_LINES,
            headings_style=FontFace(emphasis="BOLD", color=MUTED),
            line_height=4.2,
            padding=(1.1, 1.2),
            width=self.epw,
        ) as table:
            for row in [[column.name for column in columns], *rows]:
                table.row([self.writable(_shortened(str(cell))) for cell in row])

    def writable(self, text: str) -> str:
        """Returns the text on one line, with a box for each character that the fonts lack."""
        return "".join(char if ord(char) in self._available else UNKNOWN for char in one_line(text))

    @contextmanager
    def box(self, height: float) -> Iterator[tuple[float, float, float, float]]:
        """Reserves room for a drawing on one page and yields it as (left, top, width, height) in millimetres."""
        if self.will_page_break(height):
            self.add_page()
        top = self.get_y()
        yield self.l_margin, top, self.epw, height
        self.set_xy(self.l_margin, top + height)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 1].rstrip()}…"
