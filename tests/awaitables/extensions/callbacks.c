/* The callback form of hybridloop_await.h, with callbacks that are written in Python. */

#include <hybridloop_await.h>

#define SLOTS 24

/* Sets an exception and returns its status. */
static int status_of(PyObject *returned)
{
    long status;
    PyObject *exception = NULL;
    if (returned == NULL) {
        return -1;
    }
    if (PyTuple_Check(returned)) {
        status = PyLong_AsLong(PyTuple_GetItem(returned, 0));
        exception = PyTuple_GetItem(returned, 1);
    } else if (returned == Py_None) {
        status = 0;
    } else {
        status = PyLong_AsLong(returned);
    }
    if (exception != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    }
    Py_DECREF(returned);
    return (int)status;
}

/* Calls the function that is saved at an index: it returns a status, or a status and the exception to set. */
static int call(PyObject *aw, int index, PyObject *argument)
{
    Py_ssize_t n;
    PyObject *function, *returned;
    PyObject *const *values = hla_values(aw, &n);
    if (values == NULL || index >= n) {
        PyErr_SetString(PyExc_AssertionError, "nothing is saved");
        return -2;
    }
    function = Py_NewRef(values[index]);
    if (argument == NULL) {
        returned = PyObject_CallFunctionObjArgs(function, aw, NULL);
    } else {
        returned = PyObject_CallFunctionObjArgs(function, aw, argument, NULL);
    }
    Py_DECREF(function);
    return status_of(returned);
}

#define SLOT(n)                                                                          \
    static int with_value_##n(PyObject *aw, PyObject *value) { return call(aw, n, value); } \
    static int without_##n(PyObject *aw) { return call(aw, n, NULL); }

SLOT(0) SLOT(1) SLOT(2) SLOT(3) SLOT(4) SLOT(5) SLOT(6) SLOT(7) SLOT(8) SLOT(9) SLOT(10) SLOT(11)
SLOT(12) SLOT(13) SLOT(14) SLOT(15) SLOT(16) SLOT(17) SLOT(18) SLOT(19) SLOT(20) SLOT(21) SLOT(22)
SLOT(23)

#define ALL(prefix)                                                                             \
    {prefix##0, prefix##1, prefix##2, prefix##3, prefix##4, prefix##5, prefix##6, prefix##7,     \
     prefix##8, prefix##9, prefix##10, prefix##11, prefix##12, prefix##13, prefix##14,           \
     prefix##15, prefix##16, prefix##17, prefix##18, prefix##19, prefix##20, prefix##21,         \
     prefix##22, prefix##23}

static const hla_callback with_value[SLOTS] = ALL(with_value_);
static const hla_defer without[SLOTS] = ALL(without_);

/* Saves a function; returns its index, -1 for None, or -2 after an error. */
static int keep(PyObject *aw, PyObject *function)
{
    PyObject *all[SLOTS];
    Py_ssize_t n = 0, i;
    PyObject *const *values;
    if (function == Py_None) {
        return -1;
    }
    values = hla_values(aw, &n);
    if (values == NULL && PyErr_Occurred()) {
        return -2;
    }
    if (n == SLOTS) {
        PyErr_SetString(PyExc_AssertionError, "too many callbacks");
        return -2;
    }
    for (i = 0; i < n; i++) {
        all[i] = values[i];
    }
    all[n] = function;
    return hla_save(aw, n + 1, all) < 0 ? -2 : (int)n;
}

static int keep_value(PyObject *aw, PyObject *function, hla_callback *cb)
{
    int index = keep(aw, function);
    *cb = index >= 0 ? with_value[index] : NULL;
    return index == -2 ? -1 : 0;
}

static int keep_defer(PyObject *aw, PyObject *function, hla_defer *cb)
{
    int index = keep(aw, function);
    *cb = index >= 0 ? without[index] : NULL;
    return index == -2 ? -1 : 0;
}

static PyObject *done(int status)
{
    if (status < 0) {
        return NULL;
    }
    return Py_NewRef(Py_None);
}

static PyObject *new(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return hla_new("tests.callbacks.coroutine");
}

static PyObject *new_unnamed(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return hla_new(NULL);
}

static PyObject *add_await(PyObject *self, PyObject *args)
{
    PyObject *aw, *awaitable, *cb = Py_None, *err = Py_None;
    hla_callback callback, error;
    (void)self;
    if (!PyArg_ParseTuple(args, "OO|OO", &aw, &awaitable, &cb, &err) ||
        keep_value(aw, cb, &callback) < 0 || keep_value(aw, err, &error) < 0) {
        return NULL;
    }
    return done(hla_add_await(aw, awaitable, callback, error));
}

/* `await function()`, where the call may fail */
static PyObject *add_expr(PyObject *self, PyObject *args)
{
    PyObject *aw, *function;
    (void)self;
    if (!PyArg_ParseTuple(args, "OO", &aw, &function)) {
        return NULL;
    }
    return done(hla_add_expr(aw, PyObject_CallNoArgs(function), NULL, NULL));
}

static PyObject *add_null(PyObject *self, PyObject *args)
{
    PyObject *aw, *exception = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "O|O", &aw, &exception)) {
        return NULL;
    }
    if (exception != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    }
    return done(hla_add_await(aw, NULL, NULL, NULL));
}

static PyObject *add_defer(PyObject *self, PyObject *args)
{
    PyObject *aw, *fn;
    hla_defer defer;
    (void)self;
    if (!PyArg_ParseTuple(args, "OO", &aw, &fn) || keep_defer(aw, fn, &defer) < 0) {
        return NULL;
    }
    return done(hla_add_defer(aw, defer));
}

static PyObject *add_with(PyObject *self, PyObject *args)
{
    PyObject *aw, *manager, *cb = Py_None, *err = Py_None;
    hla_callback body, error;
    (void)self;
    if (!PyArg_ParseTuple(args, "OO|OO", &aw, &manager, &cb, &err) ||
        keep_value(aw, cb, &body) < 0 || keep_value(aw, err, &error) < 0) {
        return NULL;
    }
    return done(hla_add_with(aw, manager, body, error));
}

static PyObject *add_for(PyObject *self, PyObject *args)
{
    PyObject *aw, *iterable, *cb = Py_None, *fn = Py_None, *err = Py_None;
    hla_callback item, error;
    hla_defer end;
    (void)self;
    if (!PyArg_ParseTuple(args, "OO|OOO", &aw, &iterable, &cb, &fn, &err) ||
        keep_value(aw, cb, &item) < 0 || keep_defer(aw, fn, &end) < 0 ||
        keep_value(aw, err, &error) < 0) {
        return NULL;
    }
    return done(hla_add_for(aw, iterable, item, end, error));
}

static PyObject *set_result(PyObject *self, PyObject *args)
{
    PyObject *aw, *value = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "O|O", &aw, &value)) {
        return NULL;
    }
    return done(hla_set_result(aw, value));
}

static PyObject *clear(PyObject *self, PyObject *aw)
{
    (void)self;
    return done(hla_clear(aw));
}

static PyObject *save(PyObject *self, PyObject *args)
{
    PyObject *aw, *values[4] = {NULL, NULL, NULL, NULL};
    Py_ssize_t n;
    (void)self;
    if (!PyArg_ParseTuple(args, "On|OOOO", &aw, &n, &values[0], &values[1], &values[2],
                          &values[3])) {
        return NULL;
    }
    return done(hla_save(aw, n, values));
}

static PyObject *set_value(PyObject *self, PyObject *args)
{
    PyObject *aw, *value = NULL;
    Py_ssize_t index;
    (void)self;
    if (!PyArg_ParseTuple(args, "On|O", &aw, &index, &value)) {
        return NULL;
    }
    return done(hla_set_value(aw, index, value));
}

static PyObject *values(PyObject *self, PyObject *aw)
{
    Py_ssize_t n, i;
    PyObject *list;
    PyObject *const *found = hla_values(aw, &n);
    (void)self;
    if (found == NULL && PyErr_Occurred()) {
        return NULL;
    }
    list = PyList_New(0);
    for (i = 0; i < n; i++) {
        PyList_Append(list, found[i]);
    }
    return list;
}

/* The state is an object, to whose `append` its end is told. */
static void drop_state(void *state)
{
    PyObject *list = (PyObject *)state;
    PyObject *one = PyLong_FromLong(1);
    PyList_Append(list, one);
    Py_DECREF(one);
    Py_DECREF(list);
}

static int traverse_state(void *state, visitproc visit, void *arg)
{
    Py_VISIT((PyObject *)state);
    return 0;
}

static PyObject *set_state(PyObject *self, PyObject *args)
{
    PyObject *aw, *list;
    (void)self;
    if (!PyArg_ParseTuple(args, "OO", &aw, &list)) {
        return NULL;
    }
    Py_INCREF(list);
    if (hla_set_state(aw, list, drop_state, traverse_state) < 0) {
        Py_DECREF(list);
        return NULL;
    }
    return Py_NewRef(Py_None);
}

static PyObject *state(PyObject *self, PyObject *aw)
{
    PyObject *found = (PyObject *)hla_state(aw);
    (void)self;
    if (found == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    return Py_NewRef(found);
}

static PyMethodDef methods[] = {
    {"new", new, METH_NOARGS, NULL},
    {"new_unnamed", new_unnamed, METH_NOARGS, NULL},
    {"add_await", add_await, METH_VARARGS, NULL},
    {"add_expr", add_expr, METH_VARARGS, NULL},
    {"add_null", add_null, METH_VARARGS, NULL},
    {"add_defer", add_defer, METH_VARARGS, NULL},
    {"add_with", add_with, METH_VARARGS, NULL},
    {"add_for", add_for, METH_VARARGS, NULL},
    {"set_result", set_result, METH_VARARGS, NULL},
    {"clear", clear, METH_O, NULL},
    {"save", save, METH_VARARGS, NULL},
    {"set_value", set_value, METH_VARARGS, NULL},
    {"values", values, METH_O, NULL},
    {"set_state", set_state, METH_VARARGS, NULL},
    {"state", state, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static int exec_module(PyObject *module)
{
    (void)module;
    return hla_import();
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)exec_module},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "callbacks", NULL, 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_callbacks(void)
{
    return PyModuleDef_Init(&definition);
}
