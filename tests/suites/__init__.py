"""Runs the test suites of libraries on hybridloop and on asyncio's loop, and compares.

`python -m tests.suites --help` says how. The suites come from the source archives on PyPI; they and
what they need are installed into a virtual environment of their own.
"""
