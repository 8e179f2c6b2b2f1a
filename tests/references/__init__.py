"""Runs scenarios again and again on a debug build of Python, and looks for references that stay.

`python -m tests.references` says what each scenario leaves; a debug build counts all references.
"""
