"""The suites: where each one comes from, what it needs, and how it is run."""

from dataclasses import dataclass

# Of every suite; plugins are loaded by name, for those installed for one suite disturb the others.
COMMON = ("pytest>=9", "pytest-mock>=3.14", "pytest-timeout>=2.4", "pytest-xdist>=3.6")


@dataclass(frozen=True)
class Suite:
    """One library's test suite."""

    name: str
    requirement: str
    needs: tuple[str, ...] = ()
    # Folders of the source archive that would hide the installed package from its tests.
    hidden: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("tests",)
    plugins: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    # Processes for pytest-xdist; 0 where tests share ports or files.
    processes: int = 0
    # Why the archive on PyPI is no use; a checkout has to be given instead.
    without_tests: str = ""
    environment: tuple[tuple[str, str], ...] = ()


SUITES = {
    suite.name: suite
    for suite in (
        # Its tests on trio and on uvloop are skipped, for neither is installed.
        Suite(
            "anyio",
            "anyio>=4.16,<5",
            needs=(
                "blockbuster>=1.5.29",
                "exceptiongroup>=1.2",
                "hypothesis>=6",
                "psutil>=5.9",
                "trustme>=1",
                "truststore>=0.9.1",
            ),
            hidden=("src",),
            plugins=("anyio", "pytest_mock"),
            options=("-m", "not network"),
        ),
        Suite(
            "websockets",
            "websockets>=17,<18",
            needs=("python-socks[asyncio]>=2.5", "werkzeug>=3"),
            hidden=("src",),
            targets=("tests/asyncio", "tests/legacy", "tests/test_streams.py"),
            options=("-c", "/dev/null"),  # it has no configuration of pytest
            without_tests="the archive on PyPI has no tests; a checkout of its repository has them",
            environment=(("WEBSOCKETS_TESTS_TIMEOUT_FACTOR", "30"),),
        ),
        # Left out: benchmarks, and what needs Docker (autobahn) or tests its own linter (internal).
        Suite(
            "aiohttp",
            "aiohttp[speedups]>=3.14.5,<4",
            needs=(
                "blockbuster>=1.5.26",
                "freezegun>=1.5",
                "isal>=1.7; python_version < '3.14'",
                "proxy.py>=2.4.4rc5",
                "pytest-codspeed>=4",
                "pytest-cov>=6",
                "python-on-whales>=0.75",
                "trustme>=1.2",
                "zlib-ng>=0.5",
            ),
            hidden=("aiohttp",),
            plugins=("pytest_mock", "pytest_cov", "codspeed"),
            options=(
                "-m",
                "not dev_mode and not autobahn and not internal",
                "--ignore-glob=tests/test_benchmarks_*",
                "--ignore=tests/autobahn",
                "--ignore=tests/isolated",
            ),
            processes=2,
        ),
        # uvloop is not installed, so that `loop="auto"` means asyncio's default loop.
        Suite(
            "uvicorn",
            "uvicorn>=0.54,<1",
            needs=(
                "a2wsgi>=1.10",
                "cryptography>=44",
                "httptools>=0.8",
                "httpx2",
                "python-dotenv>=1",
                "pyyaml>=6",
                "trustme>=1.2",
                "watchfiles>=1",
                "websockets>=13",
                "wsproto>=1.2",
            ),
            hidden=("uvicorn",),
            plugins=("anyio", "pytest_mock"),
            options=("--ignore=tests/benchmarks",),
            processes=2,
        ),
        # The tests are part of the package. Warnings of what it imports are errors to them.
        Suite(
            "aiosmtpd",
            "aiosmtpd>=1.4.6,<2",
            needs=("pytest-asyncio>=1", "setuptools>=75,<81"),
            targets=("aiosmtpd/tests",),
            options=("-W", "default"),
            plugins=("asyncio", "pytest_mock"),
        ),
    )
}
