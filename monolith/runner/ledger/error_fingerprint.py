"""What failures have in common: the type of the error, its message without what differs from one job to the next, and the place.

Two jobs that failed with the same cause have the same key, by which the ledger groups them; the words are made again from any of them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from monolith.config import ROOT

OURS = f"{ROOT}/"
MAX_MESSAGE = 300  # characters of a message that tell causes apart
KEY_LENGTH = 16

# What differs, in the order in which it is looked for: an address holds numbers, and what is quoted may hold an address.
_DIFFERS = (
    (re.compile(r"""(?<!\w)'[^'\n]*'(?!\w)|"[^"\n]*"|“[^”\n]*”|`[^`\n]*`"""), "‘…’"),
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s,;)\]>]+", re.IGNORECASE), "<address>"),
    (re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w"), "<address>"),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b|\b[\w-]+(?:\.[\w-]+)*:\d{2,5}\b"), "<address>"),
    (re.compile(r"\b(?:0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{18,}|(?=[a-z]*\d)[0-9a-f]{8,})\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b[A-Za-z_-]*\d[\w-]*(?:[.,]\d+)*"), "<n>"),
)
_FRAME = re.compile(r'^ *File "([^"\n]+)", line \d+, in (.+)$', re.MULTILINE)
_OTHERS = ("/site-packages/", "/lib/python", "<frozen", "<string>")


@dataclass(frozen=True)
class Fingerprint:
    """Why jobs failed. `place` is a file and a function of ours, empty where no trace tells."""

    type: str
    message: str
    place: str

    @property
    def key(self) -> str:
        """The same for the same cause, in every process and after every deploy that leaves the place where it is."""
        return hashlib.sha256(f"{self.type}\n{self.message}\n{self.place}".encode()).hexdigest()[:KEY_LENGTH]


def fingerprint_of(error_type: str | None, message: str | None, trace: str | None) -> Fingerprint:
    """The cause of a failure, from what the ledger keeps of it."""
    return Fingerprint(error_type or "", _alike(message or ""), _place(trace or ""))


def _alike(message: str) -> str:
    """The first line of a message, without what differs."""
    text = next((line.strip() for line in message[: 2 * MAX_MESSAGE].splitlines() if line.strip()), "")[:MAX_MESSAGE]
    for pattern, instead in _DIFFERS:
        text = pattern.sub(instead, text)
    return text


def _place(trace: str) -> str:
    """The innermost frame of ours; its line is left out, which any edit above it moves."""
    ours = [(path, function) for path, function in _FRAME.findall(trace) if not any(one in path for one in _OTHERS)]
    if not ours:
        return ""
    path, function = ours[-1]
    short = path.removeprefix(OURS) if path.startswith(OURS) else "/".join(path.split("/")[-2:])
    return f"{short} in {function}"
