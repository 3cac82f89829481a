"""What the settings of the daemons have in common: their three names, and the error that names them all.

A setting is a field of a `Settings` struct, a flag of the command, and an environment variable; the latter two follow from
the first (`max_downloads` -> `--max-downloads`, `MODELCACHE_MAX_DOWNLOADS`), so no table has to be kept.
"""

from __future__ import annotations

from modelcache.rpc.address import Address, AddressError, parse_address


class SettingsError(ValueError):
    """A setting has an unusable value; the message names it by field, flag and environment variable."""


def flag(field: str) -> str:
    """The command line flag of a setting."""
    return "--" + field.replace("_", "-")


def variable(field: str) -> str:
    """The environment variable of a setting."""
    return "MODELCACHE_" + field.upper()


def wrong(field: str, reason: str) -> SettingsError:
    """The error for an unusable value; `reason` goes on after the names: `is 0; it must be at least 1`."""
    return SettingsError(f"{field} ({flag(field)} or {variable(field)}) {reason}")


def optional_address(field: str, text: str) -> Address | None:
    """Where a setting says to listen, port 0 for any; None when it is empty: nowhere. Raises SettingsError."""
    if not text:
        return None
    try:
        return parse_address(text, any_port=True)
    except AddressError as error:
        raise wrong(field, str(error)) from error
