"""Large files over HTTP, from the first of some places that has them; a download that was cut off goes on."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from harness.api import DataError

_PATIENCE_SECONDS = 60.0
_BLOCK_BYTES = 1 << 20
_NOT_ALLOWED = (401, 403)
_NOTHING_LEFT = 416


def download(places: Sequence[str], path: Path, *, terms: str) -> None:
    """Fetch a file to `path` from the first of its `places` that gives it; what came before a cut is kept.

    `terms`: where a person agrees to its terms. Raises DataError with the reason of each place, and the way to mend it.
    """
    half = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for place in places:
        try:
            _fetch(place, half)
        except urllib.error.HTTPError as error:
            if error.code in _NOT_ALLOWED:
                raise DataError(
                    f"{place} is given only to those who have agreed to its terms ({error.code} {error.reason}). Agree "
                    f"at {terms}, fetch the file with your account, put it at {path}, and run make data again."
                ) from None
            reasons.append(f"{place}: {error.code} {error.reason}")
        except (OSError, urllib.error.URLError) as error:
            reasons.append(f"{place}: {getattr(error, 'reason', error)}")
        else:
            half.replace(path)
            return
    raise DataError(
        f"{path.name} cannot be fetched ({'; '.join(reasons)}). Check the network and run make data again, which goes "
        f"on where it stopped; or put the file at {path}."
    )


def _fetch(place: str, half: Path) -> None:
    begun = half.stat().st_size if half.exists() else 0
    request = urllib.request.Request(place, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS) as answer:
            is_rest = answer.status == 206
            if not is_rest:
                half.unlink(missing_ok=True)
            with half.open("ab") as file:
                shutil.copyfileobj(answer, file, _BLOCK_BYTES)
            length = answer.headers.get("Content-Length")
            if length is not None and half.stat().st_size != int(length) + (begun if is_rest else 0):
                raise OSError("the connection was cut")
    except urllib.error.HTTPError as error:
        if error.code != _NOTHING_LEFT or not begun:
            raise
