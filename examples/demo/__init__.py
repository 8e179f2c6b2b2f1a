"""Serve a small ASGI application on hybridloop, talk to it over HTTP, and compare loops.

Run it with `make demo`, or with `python -m examples.demo` from the root of the repository.
"""
