"""The fingerprint of an error: its type, its message without the parts that vary from job to job, and the place in our code.

Failed jobs with the same fingerprint form an error group. The ledger stores its key; type,
message and place are computed again from any job of the group.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from monolith.config import ROOT

OURS = f"{ROOT}/"
MAX_MESSAGE = 300  # characters of a message that count
KEY_LENGTH = 16

# The varying parts, in the order of replacement: addresses contain numbers, and quoted text may contain addresses.
_VARYING = (
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
    """Error type, normalized message, and place: file and function of our code, empty where no traceback names one."""

    type: str
    message: str
    place: str

    @property
    def key(self) -> str:
        """The key of the error group: the same in every process, and after a deploy that does not move the place."""
        return hashlib.sha256(f"{self.type}\n{self.message}\n{self.place}".encode()).hexdigest()[:KEY_LENGTH]


def fingerprint_of(error_type: str | None, message: str | None, trace: str | None) -> Fingerprint:
    """The fingerprint of an error, from the columns of a failed job."""
    return Fingerprint(error_type or "", _normalized(message or ""), _place(trace or ""))


def _normalized(message: str) -> str:
    """The first line of a message, with its varying parts replaced."""
    text = next((line.strip() for line in message[: 2 * MAX_MESSAGE].splitlines() if line.strip()), "")[:MAX_MESSAGE]
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    return text


def _place(trace: str) -> str:
    """The innermost frame of our code, without its line number, which any edit above it changes."""
    ours = [(path, function) for path, function in _FRAME.findall(trace) if not any(one in path for one in _OTHERS)]
    if not ours:
        return ""
    path, function = ours[-1]
    short = path.removeprefix(OURS) if path.startswith(OURS) else "/".join(path.split("/")[-2:])
    return f"{short} in {function}"
