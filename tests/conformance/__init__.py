"""CPython's own asyncio tests, run with another event loop in the default loop's place.

``python -m tests.conformance`` runs them from the installed standard library; see ``--help``.
"""
