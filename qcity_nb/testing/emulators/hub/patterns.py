"""The patterns of .gitignore and .gitattributes, and the attributes that a new repository has."""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["ATTRIBUTES", "is_ignored", "is_lfs", "is_match"]

_LFS_NAMES = (
    "*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy *.npz *.onnx "
    "*.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar *.tflite *.tgz "
    "*.wasm *.xz *.zip *.zst *tfevents*"
)
_MEDIA_NAMES = (
    "*.lz4 *.mds *.pcm *.sam *.raw *.aac *.flac *.mp3 *.ogg *.wav *.bmp *.gif *.png *.tiff *.jpg *.jpeg *.webp *.mp4 "
    "*.webm"
)

ATTRIBUTES = {
    kind: "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in names.split())
    for kind, names in (("model", _LFS_NAMES), ("space", _LFS_NAMES), ("dataset", f"{_LFS_NAMES} {_MEDIA_NAMES}"))
}
"""The .gitattributes of a repository's first commit, by its type."""


@lru_cache(maxsize=1024)
def _compile(pattern: str) -> re.Pattern[str]:
    """A pattern as an expression for a whole path; one without a slash may match in any directory."""
    anchored = "/" in pattern.rstrip("/")[:-1] or pattern.startswith("/")
    text, regex, at = pattern.strip("/"), "" if anchored else "(?:.*/)?", 0
    while at < len(text):
        rest = text[at:]
        if rest.startswith("**/"):
            regex, at = regex + "(?:.*/)?", at + 3
        elif rest.startswith("/**") and len(rest) == 3:
            regex, at = regex + "/.+", at + 3
        elif rest[0] == "*":
            regex, at = regex + "[^/]*", at + 1
        elif rest[0] == "?":
            regex, at = regex + "[^/]", at + 1
        elif rest[0] == "[" and "]" in rest[2:]:
            end = rest.index("]", 2)
            inside = rest[1:end].replace("\\", "\\\\")
            regex += "[^" + inside[1:] + "]" if inside[0] in "!^" else "[" + inside + "]"
            at += end + 1
        elif rest[0] == "\\" and len(rest) > 1:
            regex, at = regex + re.escape(rest[1]), at + 2
        else:
            regex, at = regex + re.escape(rest[0]), at + 1
    try:
        return re.compile(regex, re.DOTALL)
    except re.error:
        return re.compile(re.escape(text))


def is_match(pattern: str, path: str) -> bool:
    """Whether git's ``pattern`` matches ``path`` itself."""
    return _compile(pattern).fullmatch(path) is not None


def is_lfs(attributes: str, path: str) -> bool:
    """What .gitattributes say of ``path``; the last line that matches wins."""
    result = False
    for line in attributes.splitlines():
        words = line.split()
        if len(words) > 1 and not words[0].startswith("#") and is_match(words[0], path):
            for word in words[1:]:
                if word.lstrip("-!").partition("=")[0] == "filter":
                    result = word == "filter=lfs"
    return result


def is_ignored(ignore: str, path: str) -> bool:
    """What .gitignore says of the file ``path``; what lies in an ignored directory cannot be taken back in."""
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        part, verdict = "/".join(parts[:depth]), False
        for raw in ignore.splitlines():
            line = raw.rstrip()
            if not line or line.startswith("#"):
                continue
            negated = line.startswith("!")
            pattern = line[1:] if negated else line
            if pattern.endswith("/") and depth == len(parts):
                continue
            if is_match(pattern, part):
                verdict = not negated
        if verdict:
            return True
    return False
