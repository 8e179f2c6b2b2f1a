"""hybridloop in CPython's own asyncio tests, one module of the standard library at a time."""

from functools import partial

import pytest

from . import loops, modules, registry, report, runner

UNAVAILABLE = modules.why_unavailable()
NAMES = [] if UNAVAILABLE else modules.available()

pytestmark = [
    pytest.mark.skipif(UNAVAILABLE is not None, reason=UNAVAILABLE or ""),
    # One test waits for a whole module, whose own tests each have a limit.
    pytest.mark.timeout(1200),
]


@pytest.fixture(scope="module")
def runs(request):
    """The selected modules' runs, under way at the same time."""
    selected = [
        item.callspec.params["module"]
        for item in request.session.items
        if item.path == request.path and "module" in getattr(item, "fixturenames", ())
    ]
    with runner.Modules("hybridloop") as pool:
        yield {name: pool.submit(name) for name in sorted(selected, key=NAMES.index)}


@pytest.mark.parametrize("module", NAMES)
def test_module(module, runs):
    run = runs[module].result()
    control = partial(runner.run_module, loops.CONTROL, module)
    again = partial(runner.run_module, "hybridloop", module)
    verdict = registry.judge(
        run, registry.read(), lambda ids: control(only=ids), lambda ids: again(only=ids)
    )
    print(report.summary([run], [verdict]))
    if run.skipped:
        pytest.skip(run.skipped)
    if not verdict.accepted:
        pytest.fail("\n\n".join(verdict.problems), pytrace=False)
