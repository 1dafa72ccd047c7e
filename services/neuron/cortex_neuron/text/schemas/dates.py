"""What llguidance's formats of dates and times leave open: 29 February of other years, leap seconds at any time.

Owns: the pattern that is kept to beside such a format. A leap second is not written at all: only some days had one.
Called by: reading.
"""

from __future__ import annotations

_LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = rf"(?:[0-9]{{4}}-(?:(?:0[13-9]|1[0-2])-[0-3][0-9]|02-(?:[01][0-9]|2[0-8]))|{_LEAP}-02-29)"
_TIME = r"[0-2][0-9]:[0-5][0-9]:[0-5]"

PATTERNS = {"date": f"^{_DATE}$", "time": f"^{_TIME}", "date-time": f"^{_DATE}[tT]{_TIME}"}
