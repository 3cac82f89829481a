"""String formats that the API server checks (`format:` in a CRD schema), and the ones that it ignores.

The server strips every format that it does not know (among them int32, int64, float and double) before it validates, so
only the names in `FORMATS` have an effect. The checks follow k8s.io/kube-openapi, pkg/validation/strfmt; its checks of
book, credit card and social security numbers, colours and BSON ids are left out: such a format is ignored here.
"""

import ipaddress
import re
from collections.abc import Callable
from datetime import date
from email.utils import parseaddr
from urllib.parse import urlsplit

# RFC 3339 as strfmt reads it: seconds may carry a fraction, the offset is Z or +hh:mm.
_DATE_TIME = re.compile(
    r"^(\d{4})-(\d{2})-(\d{2})[Tt]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$"
)
_GO_DURATION = re.compile(r"^[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+$")
# strfmt also takes "3 weeks", "1 day", ...
_WORDY_DURATION = re.compile(
    r"^(?:\d+\s*(?:nanos?|nanoseconds?|ns|micros?|microseconds?|us|millis?|milliseconds?|ms|seconds?|secs?|s|"
    r"minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|wks?|w)\s*)+$"
)
_MAC = re.compile(
    r"^(?:[0-9a-fA-F]{2}([:-])(?:[0-9a-fA-F]{2}\1){4}[0-9a-fA-F]{2}|(?:[0-9a-fA-F]{4}\.){2}[0-9a-fA-F]{4})$"
)
_HOST_LABEL = re.compile(r"^[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?$")
_BASE64 = re.compile(r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$")
_SHORT_NAME = re.compile(r"^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$")
_LONG_NAME = re.compile(r"^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*$")


def _uuid(version: str) -> Callable[[str], bool]:
    variant = "[89ab]" if version in "45" and version else "[0-9a-f]"
    nibble = version or "[0-9a-f]"
    pattern = re.compile(
        rf"^[0-9a-f]{{8}}-?[0-9a-f]{{4}}-?{nibble}[0-9a-f]{{3}}-?{variant}[0-9a-f]{{3}}-?[0-9a-f]{{12}}$", re.IGNORECASE
    )
    return lambda text: pattern.match(text) is not None


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def is_date_time(text: str) -> bool:
    """True for an RFC 3339 timestamp."""
    return _DATE_TIME.match(text) is not None and _is_date(text[:10])


def _is_ip(version: int) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            return ipaddress.ip_address(text).version == version
        except ValueError:
            return False

    return check


def _is_cidr(text: str) -> bool:
    if "/" not in text:
        return False
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return text.rsplit("/", 1)[1].isdigit()


def _is_uri(text: str) -> bool:
    # The server accepts what Go's url.ParseRequestURI accepts: an absolute URI or an absolute path.
    if not text or any(ord(char) <= 0x20 or ord(char) == 0x7F for char in text):
        return False
    if text.startswith("/"):
        return True
    try:
        return bool(urlsplit(text).scheme)
    except ValueError:
        return False


def _is_hostname(text: str) -> bool:
    return len(text) <= 255 and all(_HOST_LABEL.match(label) for label in text.split("."))


FORMATS: dict[str, Callable[[str], bool]] = {
    "byte": lambda text: _BASE64.match(text) is not None,
    "cidr": _is_cidr,
    "date": _is_date,
    "datetime": is_date_time,
    "duration": lambda text: bool(_GO_DURATION.match(text) or _WORDY_DURATION.match(text) or text == "0"),
    "email": lambda text: "@" in parseaddr(text)[1],
    "hostname": _is_hostname,
    "ipv4": _is_ip(4),
    "ipv6": _is_ip(6),
    "k8slongname": lambda text: len(text) <= 253 and _LONG_NAME.match(text) is not None,
    "k8sshortname": lambda text: _SHORT_NAME.match(text) is not None,
    "mac": lambda text: _MAC.match(text) is not None,
    "password": lambda _text: True,
    "uri": _is_uri,
    "uuid": _uuid(""),
    "uuid3": _uuid("3"),
    "uuid4": _uuid("4"),
    "uuid5": _uuid("5"),
}


def format_check(name: str) -> Callable[[str], bool] | None:
    """The check for format `name`, or None when the server ignores it. Dashes do not matter: `date-time`, `datetime`."""
    return FORMATS.get(name.replace("-", ""))
