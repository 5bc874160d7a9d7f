"""DVC-tracked data: read, fetch, verify.

``Data`` (in ``dvc``) is what a notebook holds as ``city.data``. ``tracked`` reads what DVC recorded,
``objects`` copies content out of caches and directory remotes, ``verified`` remembers what was hashed,
and ``fetch`` asks DVC itself for content that is elsewhere.

May import: root. Imported by: hosts, city.
"""

from qcity_nb.data.dvc import Data as Data
from qcity_nb.data.dvc import Status as Status

__all__ = ["Data", "Status"]
