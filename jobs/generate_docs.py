"""The job type `generate_docs`: writes documentation for a site, a document or a project, with the sources of every section."""

from __future__ import annotations

from typing import Any

from marshmallow import fields, validate

from monolith.content.fetch import Fetched
from monolith.job_types.registry import Document, Job, exponential, job_type

from .tools.documentation import document, llm_writer, local_writer
from .tools.documentation.crawl import MAX_LINKED, crawl
from .tools.documentation.sources import SourceSet, document_sources, site_sources
from .tools.llm import client
from .tools.params import FormParams, check_url
from .tools.project.archive import is_archive
from .tools.project.source_index import project_sources


class Params(FormParams):
    url = fields.String(
        validate=check_url,
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
        doc = llm_writer.write(job, material) if client.configured() else local_writer.write(material)
    except client.UseLocal as why:
        doc = local_writer.write(material, why=str(why))
    doc = llm_writer.with_title(doc, params.get("title"))
    job.progress(90, "creating the files")
    job.attach("documentation.md", document.markdown(doc).encode(), "text/markdown; charset=utf-8")
    job.attach("documentation.html", document.html(doc).encode(), "text/html; charset=utf-8")
    return doc.as_result()


def _read(job: Job, params: dict[str, Any]) -> SourceSet:
    document = job.document
    if document is None:
        return _site(job, params["url"], params, None)
    if document.content is not None and (document.kind == "project" or is_archive(document.content, document.media_type)):
        # A "project" may be a single text instead of an archive.
        is_packed = is_archive(document.content, document.media_type)
        return project_sources(document.title, document.content) if is_packed else document_sources(document)
    if document.source_url and document.kind == "page":
        return _site(job, document.source_url, params, document)
    return document_sources(document)


def _site(job: Job, url: str, params: dict[str, Any], document: Document | None) -> SourceSet:
    """Crawls the page and its links. The page of a document is read from the stored copy, or stored when it is fetched first."""
    kept = Fetched(url, document.content, document.media_type) if document and document.content is not None else None
    site = crawl(
        url,
        params.get("pages", MAX_LINKED),
        first=kept,
        on_progress=lambda read, of: job.progress(5 + 50 * read / of, f"page {read + 1} of up to {of}"),
    )
    if document and not kept:
        document.keep(site.first.content, site.first.media_type, site.pages[0].title)
    return site_sources(site)
