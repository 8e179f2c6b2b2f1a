"""Errors that reach the exception handler. asyncio's private `_run()` has the messages."""

import asyncio
import contextvars
import gc
import logging
import sys
import weakref

import pytest


def fail(*args):
    raise ValueError("boom")


def test_context_of_a_failed_callback(loop, iterate, unhandled):
    loop.set_debug(False)
    handle = loop.call_soon(fail, 1)
    iterate()
    (context,) = unhandled
    assert set(context) == {"message", "exception", "handle"}
    assert context["message"].startswith("Exception in callback fail(")
    assert __file__ in context["message"]
    assert isinstance(context["exception"], ValueError)
    assert context["handle"] is handle


def test_message_is_asyncios(loop, iterate, unhandled):
    """Letter by letter what asyncio's own handle reports."""
    for arguments in [(), (1,), ("a", [2], None)]:
        loop.call_soon(fail, *arguments)
        iterate()
        asyncio.Handle(fail, arguments, loop)._run()
        ours, stock = unhandled[-2:]
        assert ours["message"] == stock["message"]


def test_context_of_a_failed_timer(loop, unhandled):
    timer = loop.call_later(0, fail)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    (context,) = unhandled
    assert context["handle"] is timer
    assert isinstance(context["exception"], ValueError)


def test_traceback_points_into_the_callback(loop, iterate, unhandled):
    loop.call_soon(fail)
    iterate()
    names = []
    traceback = unhandled[0]["exception"].__traceback__
    while traceback:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names[-1] == "fail"


def test_loop_goes_on_after_an_error(loop, iterate, unhandled):
    seen = []
    loop.call_soon(fail)
    loop.call_soon(seen.append, 1)
    iterate()
    assert seen == [1]
    assert len(unhandled) == 1


def test_default_handler_logs(loop, iterate, asyncio_log):
    loop.call_soon(fail)
    iterate()
    (record,) = asyncio_log.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("Exception in callback fail(")
    assert "handle: <Handle fail() at" in record.getMessage()
    assert isinstance(record.exc_info[1], ValueError)


def test_get_and_set(loop):
    assert loop.get_exception_handler() is None

    def handler(loop, context):
        """Never called."""

    loop.set_exception_handler(handler)
    assert loop.get_exception_handler() is handler
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None


@pytest.mark.parametrize("handler", [1, "handler", object()])
def test_handler_has_to_be_callable(loop, handler):
    with pytest.raises(TypeError, match="A callable object or None is expected, got"):
        loop.set_exception_handler(handler)


def test_handler_gets_the_loop(loop, iterate):
    seen = []
    loop.set_exception_handler(lambda *args: seen.append(args))
    loop.call_soon(fail)
    iterate()
    (arguments,) = seen
    assert arguments[0] is loop
    assert isinstance(arguments[1], dict)


def test_call_exception_handler_directly(loop, unhandled):
    context = {"message": "mine", "extra": 1}
    loop.call_exception_handler(context)
    assert unhandled == [context]


def test_call_exception_handler_with_the_default_handler(loop, asyncio_log):
    loop.call_exception_handler({"message": "mine", "detail": [1, 2]})
    assert asyncio_log.messages == ["mine\ndetail: [1, 2]"]


def test_default_exception_handler_without_a_message(loop, asyncio_log):
    loop.default_exception_handler({})
    assert asyncio_log.messages == ["Unhandled exception in event loop"]


def test_custom_handler_may_fall_back_to_the_default(loop, iterate, asyncio_log):
    loop.set_exception_handler(lambda loop, context: loop.default_exception_handler(context))
    loop.call_soon(fail)
    iterate()
    assert len(asyncio_log.records) == 1


def test_error_in_the_handler_itself(loop, iterate, asyncio_log):
    def handler(loop, context):
        raise ZeroDivisionError("handler is broken")

    loop.set_exception_handler(handler)
    loop.call_soon(fail)
    iterate()
    (record,) = asyncio_log.records
    assert record.getMessage().startswith("Unhandled error in exception handler")
    assert isinstance(record.exc_info[1], ZeroDivisionError)


def test_error_in_an_overridden_default_handler(loop_factory, asyncio_log):
    probe = loop_factory()
    kind = type(probe)
    probe.close()

    class Broken(kind):
        def default_exception_handler(self, context):
            raise ZeroDivisionError

    loop = Broken()
    loop.call_soon(fail)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert asyncio_log.messages == ["Exception in default exception handler"]


def test_overridden_call_exception_handler_is_used(loop_factory):
    probe = loop_factory()
    kind = type(probe)
    probe.close()
    seen = []

    class Mine(kind):
        def call_exception_handler(self, context):
            seen.append(context["exception"])

    loop = Mine()
    loop.call_soon(fail)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert len(seen) == 1
    seen.clear()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")
def test_handler_runs_in_the_context_of_the_callback(loop, iterate):
    var = contextvars.ContextVar("var", default="unset")
    seen = []
    loop.set_exception_handler(lambda loop, context: seen.append(var.get()))
    context = contextvars.copy_context()
    context.run(var.set, "callback's")
    loop.call_soon(fail, context=context)
    iterate()
    assert seen == ["callback's"]


def test_exception_of_a_forgotten_task(loop, iterate, unhandled):
    async def forgotten():
        raise ValueError("boom")

    loop.create_task(forgotten())
    iterate(3)
    gc.collect()
    (context,) = unhandled
    assert context["message"] == "Task exception was never retrieved"
    assert isinstance(context["exception"], ValueError)


def test_exception_of_a_forgotten_future(loop, unhandled):
    loop.create_future().set_exception(ValueError("boom"))
    gc.collect()
    (context,) = unhandled
    assert context["message"] == "Future exception was never retrieved"


def test_reported_exception_keeps_nothing_alive(loop, iterate):
    """Once the handler returned, the callback's frame is gone."""

    class Local:
        pass

    references = []

    def callback():
        local = Local()
        references.append(weakref.ref(local))
        raise ValueError

    loop.set_exception_handler(lambda loop, context: None)
    loop.call_soon(callback)
    iterate(2)
    gc.collect()
    assert references[0]() is None
