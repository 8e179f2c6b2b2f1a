"""Gives the package the version of hybridloop, which stands in Cargo.toml at the root."""

import tomllib
from email.parser import Parser
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent


def version() -> str:
    metadata = HERE / "PKG-INFO"
    if metadata.exists():  # in a source distribution
        return str(Parser().parsestr(metadata.read_text())["Version"])
    cargo = tomllib.loads((HERE.parents[1] / "Cargo.toml").read_text())
    return str(cargo["workspace"]["package"]["version"])


setup(version=version())
