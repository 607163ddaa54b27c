"""What is where, now: effects and time.

The registry knows the files, a *wish* says what should be loaded and how, a *resident* is what is loaded. `reconcile`
compares the two and says what to move; jobs carry the moves out. `Loadmaster` is the one owner of all of it, on the
event loop. Knows nothing of HTTP. Read DESIGN.md first, then `loadmaster.py`.
"""

from app.residency.loadmaster import Loadmaster

__all__ = ["Loadmaster"]
