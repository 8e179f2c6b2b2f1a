/* A program for PyAwaitable 2.x, with a function for each of its uses. */

#include <Python.h>
#include <pyawaitable.h>

static int give(PyObject *aw, PyObject *value)
{
    return PyAwaitable_SetResult(aw, value);
}

static int swallow(PyObject *aw, PyObject *exc)
{
    (void)aw, (void)exc;
    return 0;
}

/* Two values are saved; the result is that of the coroutine. */
static int with_values(PyObject *aw, PyObject *value)
{
    PyObject *thing;
    if (PyAwaitable_UnpackValues(aw, &thing) < 0) {
        return -1;
    }
    if (thing == NULL) {
        PyErr_SetString(PyExc_AssertionError, "nothing was saved");
        return -1;
    }
    return PyAwaitable_SetResult(aw, value);
}

static PyObject *finished(PyObject *aw, int status)
{
    if (status < 0) {
        Py_DECREF(aw);
        return NULL;
    }
    return aw;
}

/* test_awaitable(thing, coro): gives the result of `coro`, with `thing` at hand. */
static PyObject *test_awaitable(PyObject *self, PyObject *args)
{
    PyObject *thing, *coro, *aw;
    (void)self;
    if (!PyArg_ParseTuple(args, "OO", &thing, &coro)) {
        return NULL;
    }
    aw = PyAwaitable_New();
    if (aw == NULL) {
        return NULL;
    }
    if (PyAwaitable_SaveValues(aw, 1, thing) < 0) {
        return finished(aw, -1);
    }
    return finished(aw, PyAwaitable_AddAwait(aw, coro, with_values, NULL));
}

static PyObject *make(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return PyAwaitable_New();
}

/* Awaits a coroutine and gives its result. */
static PyObject *trampoline(PyObject *self, PyObject *coro)
{
    PyObject *aw = PyAwaitable_New();
    (void)self;
    return aw == NULL ? NULL : finished(aw, PyAwaitable_AddAwait(aw, coro, give, NULL));
}

/* The same, with an error callback that takes every exception. */
static PyObject *swallowing(PyObject *self, PyObject *coro)
{
    PyObject *aw = PyAwaitable_New();
    (void)self;
    return aw == NULL ? NULL : finished(aw, PyAwaitable_AddAwait(aw, coro, give, swallow));
}

static PyObject *add(PyObject *self, PyObject *args)
{
    PyObject *aw, *coro;
    (void)self;
    if (!PyArg_ParseTuple(args, "OO", &aw, &coro) ||
        PyAwaitable_AddAwait(aw, coro, give, NULL) < 0) {
        return NULL;
    }
    return Py_NewRef(Py_None);
}

static int cancel_and_go_on(PyObject *aw, PyObject *value)
{
    PyObject *second;
    (void)value;
    PyAwaitable_Cancel(aw);
    if (PyAwaitable_UnpackValues(aw, &second) < 0) {
        return -1;
    }
    return PyAwaitable_AddAwait(aw, second, give, NULL);
}

/* Awaits `first`, drops what is queued, and awaits `second`. */
static PyObject *cancelling(PyObject *self, PyObject *args)
{
    PyObject *first, *dropped, *second;
    PyObject *aw = PyAwaitable_New();
    (void)self;
    if (aw == NULL) {
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOO", &first, &dropped, &second) ||
        PyAwaitable_SaveValues(aw, 1, second) < 0 ||
        PyAwaitable_AddAwait(aw, first, cancel_and_go_on, NULL) < 0 ||
        PyAwaitable_AddAwait(aw, dropped, NULL, NULL) < 0) {
        return finished(aw, -1);
    }
    return aw;
}

static PyObject *cancel(PyObject *self, PyObject *aw)
{
    (void)self;
    PyAwaitable_Cancel(aw);
    return Py_NewRef(Py_None);
}

static PyObject *set_result(PyObject *self, PyObject *args)
{
    PyObject *aw, *value;
    (void)self;
    if (!PyArg_ParseTuple(args, "OO", &aw, &value) || PyAwaitable_SetResult(aw, value) < 0) {
        return NULL;
    }
    return Py_NewRef(Py_None);
}

static int raise_saved(PyObject *aw, PyObject *value)
{
    PyObject *exception;
    if (PyAwaitable_UnpackValues(aw, NULL, &exception) < 0) {
        return -1;
    }
    if (PyAwaitable_SetResult(aw, value) < 0) {
        return -1;
    }
    if (exception == Py_None) {
        return 0;
    }
    PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    return -1;
}

/* `async with manager`, with an exception to raise in its body, or None. */
static PyObject *async_with(PyObject *self, PyObject *args)
{
    PyObject *manager, *exception;
    PyObject *aw = PyAwaitable_New();
    (void)self;
    if (aw == NULL) {
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OO", &manager, &exception) ||
        PyAwaitable_SaveValues(aw, 2, manager, exception) < 0 ||
        PyAwaitable_AsyncWith(aw, manager, raise_saved, NULL) < 0) {
        return finished(aw, -1);
    }
    return aw;
}

static int fail_without_exception(PyObject *aw)
{
    (void)aw;
    return -1;
}

static PyObject *deferring(PyObject *self, PyObject *unused)
{
    PyObject *aw = PyAwaitable_New();
    (void)self, (void)unused;
    return aw == NULL ? NULL : finished(aw, PyAwaitable_DeferAwait(aw, fail_without_exception));
}

/* `await function()` by PyAwaitable_AddExpr() */
static PyObject *expression(PyObject *self, PyObject *function)
{
    PyObject *aw = PyAwaitable_New();
    (void)self;
    if (aw == NULL) {
        return NULL;
    }
    return finished(aw, PyAwaitable_AddExpr(aw, PyObject_CallNoArgs(function), give, NULL));
}

static PyObject *get_type(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return Py_XNewRef((PyObject *)PyAwaitable_GetType());
}

#define CHECK(condition)                                                               \
    do {                                                                               \
        if (!(condition)) {                                                            \
            if (!PyErr_Occurred()) {                                                   \
                PyErr_Format(PyExc_AssertionError, "line %d: %s", __LINE__, #condition); \
            }                                                                          \
            return NULL;                                                               \
        }                                                                              \
    } while (0)

#define CHECK_RAISES(condition, exception)               \
    do {                                                 \
        CHECK(condition);                                \
        CHECK(PyErr_ExceptionMatches(exception));        \
        PyErr_Clear();                                   \
    } while (0)

static PyObject *saved_values(PyObject *self, PyObject *aw)
{
    PyObject *one = PyLong_FromLong(1000), *two = PyLong_FromLong(2000);
    PyObject *first, *third;
    (void)self;
    CHECK_RAISES(PyAwaitable_UnpackValues(aw, NULL) == -1, PyExc_RuntimeError);
    CHECK_RAISES(PyAwaitable_GetValue(aw, 0) == NULL, PyExc_IndexError);
    CHECK(PyAwaitable_SaveValues(aw, 2, one, two) == 0);
    CHECK(PyAwaitable_SaveValues(aw, 1, Py_None) == 0);
    CHECK(PyAwaitable_UnpackValues(aw, &first, NULL, &third) == 0);
    CHECK(first == one && third == Py_None);
    CHECK(PyAwaitable_GetValue(aw, 1) == two);
    CHECK(PyAwaitable_SetValue(aw, 1, one) == 0);
    CHECK(PyAwaitable_GetValue(aw, 1) == one);
    CHECK_RAISES(PyAwaitable_GetValue(aw, 3) == NULL, PyExc_IndexError);
    CHECK_RAISES(PyAwaitable_SetValue(aw, -1, one) == -1, PyExc_IndexError);
    CHECK_RAISES(PyAwaitable_SaveValues(aw, 1, NULL) == -1, PyExc_ValueError);
    CHECK(PyAwaitable_GetValue(aw, 2) == Py_None);
    Py_DECREF(one);
    Py_DECREF(two);
    return Py_NewRef(Py_None);
}

static PyObject *saved_pointers(PyObject *self, PyObject *aw)
{
    int a, b;
    void *first, *second;
    (void)self;
    CHECK_RAISES(PyAwaitable_UnpackArbValues(aw, NULL) == -1, PyExc_RuntimeError);
    CHECK(PyAwaitable_SaveArbValues(aw, 1, &a) == 0);
    CHECK(PyAwaitable_SaveArbValues(aw, 2, &b, NULL) == 0);
    CHECK(PyAwaitable_UnpackArbValues(aw, &first, &second, NULL) == 0);
    CHECK(first == &a && second == &b);
    CHECK(PyAwaitable_GetArbValue(aw, 2) == NULL && !PyErr_Occurred());
    CHECK(PyAwaitable_SetArbValue(aw, 2, &a) == 0);
    CHECK(PyAwaitable_GetArbValue(aw, 2) == &a);
    CHECK_RAISES(PyAwaitable_GetArbValue(aw, 3) == NULL, PyExc_IndexError);
    CHECK_RAISES(PyAwaitable_SetArbValue(aw, -1, &a) == -1, PyExc_IndexError);
    return Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"test_awaitable", test_awaitable, METH_VARARGS, NULL},
    {"make", make, METH_NOARGS, NULL},
    {"trampoline", trampoline, METH_O, NULL},
    {"swallowing", swallowing, METH_O, NULL},
    {"add", add, METH_VARARGS, NULL},
    {"cancelling", cancelling, METH_VARARGS, NULL},
    {"cancel", cancel, METH_O, NULL},
    {"set_result", set_result, METH_VARARGS, NULL},
    {"async_with", async_with, METH_VARARGS, NULL},
    {"deferring", deferring, METH_NOARGS, NULL},
    {"expression", expression, METH_O, NULL},
    {"get_type", get_type, METH_NOARGS, NULL},
    {"saved_values", saved_values, METH_O, NULL},
    {"saved_pointers", saved_pointers, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static int exec_module(PyObject *module)
{
    (void)module;
#ifdef WITHOUT_INIT
    return 0;
#else
    return PyAwaitable_Init();
#endif
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)exec_module},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "pyawaitable", NULL, 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_pyawaitable(void)
{
    return PyModuleDef_Init(&definition);
}
