"""Points in time and durations as kubectl shows them (`5d3h`)."""

from datetime import UTC, datetime


def parse_time(text: str) -> datetime | None:
    """An RFC 3339 timestamp as an aware datetime, or None when it is not one."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def human_age(timestamp: str | None, now: datetime) -> str:
    """How long ago `timestamp` was: `<unknown>` without one, `<invalid>` in the future or when it is malformed."""
    if not timestamp:
        return "<unknown>"
    moment = parse_time(timestamp)
    return human_duration((now - moment).total_seconds()) if moment else "<invalid>"


def human_duration(seconds: float) -> str:
    """Two or three significant figures: the rules of k8s.io/apimachinery, util/duration, HumanDuration."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"  # up to two seconds ahead is a clock that differs, not a fault
    if total < 0:
        return "0s"
    if total < 120:
        return f"{total}s"
    minutes, rest = divmod(total, 60)
    if minutes < 10:
        return _joined(minutes, "m", rest, "s")
    if minutes < 180:
        return f"{minutes}m"
    hours = total // 3600
    if hours < 8:
        return _joined(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if hours < 192:
        return _joined(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    if days < 2920:
        return _joined(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _joined(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"
