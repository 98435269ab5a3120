"""What job types tell the LLM to do: a file for each, `jobs/prompts/<type>.md`, for people to read and mend."""

from __future__ import annotations

from functools import cache

from monolith.config import ROOT

FOLDER = ROOT / "jobs" / "prompts"


@cache
def prompt(name: str) -> str:
    """The instructions of a job type, read once. Raises LookupError, which names the file, where there are none."""
    path = FOLDER / f"{name}.md"
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LookupError(f"The prompt {path} cannot be read ({error}). Write the instructions for the model there, as UTF-8.") from error
    if not text:
        raise LookupError(f"The prompt {path} is empty. Write the instructions for the model there.")
    return text
