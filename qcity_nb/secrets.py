"""What looks like a credential: it is never written into a snapshot."""

from __future__ import annotations

import re

__all__ = ["looks_secret"]

_SECRET_NAME = re.compile(
    r"TOKEN(?!IZERS?(?:_|$))|KEYS?(?:_|$)|SECRET|PASSW|PASSPHRASE|(?:^|_)(?:PASS|PWD|AUTH|"
    r"PAT|SAS|DSN|COOKIE|BEARER|JWT|CERT|SIGNATURE)(?:_|$)|CREDENTIAL|PRIVATE|WEBHOOK|NETRC",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:
        hf_[A-Za-z0-9]{6} | api_org_[A-Za-z0-9]{6} | sk-[A-Za-z0-9_-]{6} | sk_(?:live|test)_ | rk_(?:live|test)_
      | gh[opsur]_[A-Za-z0-9]{6} | github_pat_ | glpat- | gldt- | xox[abeoprs]- | xapp-
      | AKIA[A-Z0-9]{8} | ASIA[A-Z0-9]{8} | AIza[A-Za-z0-9_-]{8} | ya29\.
      | eyJ[A-Za-z0-9_-]{8} | pypi-[A-Za-z0-9] | npm_[A-Za-z0-9]{6}
      | dop_v1_ | dckr_pat_ | nvapi- | gsk_[A-Za-z0-9]{6} | r8_[A-Za-z0-9]{6} | wandb_v1_
      | SG\.[A-Za-z0-9_-]{8} | shpat_ | lin_api_
      | (?:bearer|basic)\s+[A-Za-z0-9+/=._-]{6}
    )
    | -----BEGIN\s
    | [a-z][a-z0-9+.-]*://[^/\s@]*@                      # any user in an address: a token may stand in its place
    | [?&;\s](?:sig|signature|x-amz-[a-z-]+)=
    | (?:token|passw(?:or)?d|pwd|secret|api_?key|access_?key|accountkey|credential)["']?\s*[=:]
    | \b[0-9a-f]{32,}\b                                  # hexadecimal keys
    | (?-i:(?<![\w/.-])(?=[\w+/=-]*[0-9])(?=[\w+/=-]*[a-z])(?=[\w+/=-]*[A-Z])[A-Za-z0-9+/_=-]{24,}(?![\w/.-]))
    """,
    re.IGNORECASE | re.VERBOSE,
)
_LONGEST = 4096
"""No setting is known to be longer; the content of a key file may be."""


def looks_secret(name: str, value: str) -> bool:
    """Does a variable's name or value look like a credential? False alarms are preferred to leaks."""
    return bool(_SECRET_NAME.search(name) or _SECRET_VALUE.search(value)) or len(value) > _LONGEST
