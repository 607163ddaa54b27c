"""How you ask: the only place that knows HTTP.

A route parses, makes one call, and returns. Read `placement.py` for the shape of it, and `errors.py` for what happens
when something is wrong: every error under /v1 has one body, and its status stands in one table.
"""
