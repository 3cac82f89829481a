"""What may be a name, a label or an annotation key, and how the real server says no.

Each check returns the sentences that are wrong with the text (none: it is fine). Wording and limits follow
k8s.io/apimachinery/pkg/util/validation.
"""

import re
from collections.abc import Callable

SUBDOMAIN_LIMIT = 253
LABEL_LIMIT = 63

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = _LABEL + r"(\." + _LABEL + r")*"
_LABEL_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = r"((" + r"[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"

NameCheck = Callable[[str], list[str]]


def _too_long(limit: int) -> str:
    return f"must be no more than {limit} bytes"


def _pattern(explanation: str, pattern: str, *examples: str) -> str:
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{explanation} (e.g. {shown}regex used for validation is '{pattern}')"


def dns_subdomain(text: str) -> list[str]:
    """RFC 1123 subdomain: names of most objects."""
    problems = [_too_long(SUBDOMAIN_LIMIT)] if len(text.encode()) > SUBDOMAIN_LIMIT else []
    if not re.fullmatch(_SUBDOMAIN, text):
        problems.append(
            _pattern(
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and "
                "must start and end with an alphanumeric character",
                _SUBDOMAIN,
                "example.com",
            )
        )
    return problems


def dns_label(text: str) -> list[str]:
    """RFC 1123 label: names of namespaces."""
    problems = [_too_long(LABEL_LIMIT)] if len(text.encode()) > LABEL_LIMIT else []
    if not re.fullmatch(_LABEL, text):
        problems.append(
            _pattern(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start "
                "and end with an alphanumeric character",
                _LABEL,
                "my-name",
                "123-abc",
            )
        )
    return problems


def dns_1035_label(text: str) -> list[str]:
    """RFC 1035 label: names of Services."""
    problems = [_too_long(LABEL_LIMIT)] if len(text.encode()) > LABEL_LIMIT else []
    if not re.fullmatch(_LABEL_1035, text):
        problems.append(
            _pattern(
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
                "character, and end with an alphanumeric character",
                _LABEL_1035,
                "my-name",
                "abc-123",
            )
        )
    return problems


def path_segment(text: str) -> list[str]:
    """Anything that can stand in a URL path: names of RBAC objects."""
    if text in (".", ".."):
        return [f"may not be '{text}'"]
    return [f"may not contain '{character}'" for character in "/%" if character in text]


def qualified_name(text: str) -> list[str]:
    """`[prefix/]name`: label keys, annotation keys, finalizers."""
    problems = []
    prefix, slash, name = text.rpartition("/")
    if "/" in prefix:
        explanation = _pattern(
            "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
            "alphanumeric character",
            _QUALIFIED,
            "MyName",
            "my.name",
            "123-abc",
        )
        return [f"{explanation} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"]
    if slash:
        if not prefix:
            problems.append("prefix part must be non-empty")
        else:
            problems += [f"prefix part {problem}" for problem in dns_subdomain(prefix)]
    if not name:
        problems.append("name part must be non-empty")
    elif len(name.encode()) > LABEL_LIMIT:
        problems.append(f"name part {_too_long(LABEL_LIMIT)}")
    if not re.fullmatch(_QUALIFIED, name):
        problems.append(
            _pattern(
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
                "alphanumeric character",
                _QUALIFIED,
                "MyName",
                "my.name",
                "123-abc",
            )
        )
    return problems


def label_value(text: str) -> list[str]:
    """The value of a label; may be empty."""
    problems = [_too_long(LABEL_LIMIT)] if len(text.encode()) > LABEL_LIMIT else []
    if not re.fullmatch(_LABEL_VALUE, text):
        problems.append(
            _pattern(
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and "
                "must start and end with an alphanumeric character",
                _LABEL_VALUE,
                "MyValue",
                "my_value",
                "12345",
            )
        )
    return problems
