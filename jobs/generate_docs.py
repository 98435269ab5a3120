"""Write the documentation of a site, a document or a project: what it is, how to start, what there is, each with its sources."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields, pre_load, validate

from monolith.content.fetch import Fetched, why_unfit
from monolith.job_types.registry import Document, Job, exponential, job_type

from .tools.documentation import document, llm_writer, local_writer
from .tools.documentation.crawl import MAX_LINKED, crawl
from .tools.documentation.sources import Material, of_document, of_site
from .tools.llm import client
from .tools.project.archive import is_archive
from .tools.project.source_index import of_project


def _check_url(url: str) -> None:
    if reason := why_unfit(url):
        raise ValidationError(reason)


class Params(Schema):
    url = fields.String(
        validate=_check_url,
        metadata={"title": "Address", "description": "The page to start from, if no document is given. Starts with http:// or https://."},
    )
    title = fields.String(
        validate=validate.Length(max=200),
        metadata={"title": "Title", "description": "Title of the documentation; defaults to the title of its source."},
    )
    pages = fields.Integer(
        load_default=MAX_LINKED,
        validate=validate.Range(0, MAX_LINKED),
        metadata={"title": "Linked pages", "description": "Maximum number of linked pages of the same site to read as well."},
    )

    @pre_load
    def without_blanks(self, data: Any, **_: Any) -> Any:
        """A field of a form that was left blank was not given."""
        return {key: value for key, value in data.items() if value not in (None, "")} if isinstance(data, dict) else data


@job_type(
    queue="default",
    params=Params,
    takes="document",
    alternatives=("url",),
    max_attempts=3,
    backoff=exponential(2),
    timeout=300,
    io_bound=client.configured,
)
def generate_docs(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Write documentation for a web page, document or project.

    Reads a page and up to 10 linked pages of the same site (robots.txt is honoured), a document, or a project (the texts and
    docstrings in a zip or tar), and returns an overview, sections, first steps and a reference, as Markdown and HTML. Every
    section names its sources. If a language model is configured, it writes the documentation; otherwise it is an outline of the
    source with quotations, marked `engine: local`.
    """
    job.progress(5, "reading")
    material = _read(job, params)
    job.progress(60, "writing")
    try:
        doc = llm_writer.written(job, material) if client.configured() else local_writer.quoted(material)
    except client.UseLocal as why:
        doc = local_writer.quoted(material, why=str(why))
    doc = llm_writer.with_title(doc, params.get("title"))
    job.progress(90, "creating the files")
    job.attach("documentation.md", document.markdown(doc).encode(), "text/markdown; charset=utf-8")
    job.attach("documentation.html", document.html(doc).encode(), "text/html; charset=utf-8")
    return doc.as_result()


def _read(job: Job, params: dict[str, Any]) -> Material:
    document = job.document
    if document is None:
        return _site(job, params["url"], params, None)
    if document.content is not None and (document.kind == "project" or is_archive(document.content, document.media_type)):
        return _project(document, document.content)
    if document.source_url and document.kind == "page":
        return _site(job, document.source_url, params, document)
    return of_document(document)


def _project(document: Document, content: bytes) -> Material:
    """A project is an archive; a project of one text is read as the text that it is."""
    return of_project(document.title, content) if is_archive(content, document.media_type) else of_document(document)


def _site(job: Job, url: str, params: dict[str, Any], document: Document | None) -> Material:
    """The page and those that it links. A document's page is read as it was kept, and kept when it is read first."""
    kept = Fetched(url, document.content, document.media_type) if document and document.content is not None else None
    site = crawl(
        url,
        params.get("pages", MAX_LINKED),
        first=kept,
        tell=lambda read, of: job.progress(5 + 50 * read / of, f"page {read + 1} of up to {of}"),
    )
    if document and not kept:
        document.keep(site.first.content, site.first.media_type, site.pages[0].title)
    return of_site(site)
