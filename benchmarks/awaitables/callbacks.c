/* A coroutine of callbacks with the interface of PyAwaitable, which hybridloop has as well: once(awaitable) awaits it. */

#include <Python.h>
#include <pyawaitable.h>

static int done(PyObject *aw, PyObject *value)
{
    return PyAwaitable_SetResult(aw, value);
}

static PyObject *once(PyObject *module, PyObject *awaitable)
{
    PyObject *aw = PyAwaitable_New();
    if (aw == NULL) {
        return NULL;
    }
    if (PyAwaitable_AddAwait(aw, awaitable, done, NULL) < 0) {
        Py_DECREF(aw);
        return NULL;
    }
    return aw;
}

static int exec(PyObject *module)
{
    return PyAwaitable_Init();
}

static PyMethodDef METHODS[] = {{"once", once, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, (void *)exec}, {0, NULL}};
static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "callbacks", NULL, 0, METHODS, SLOTS, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_callbacks(void)
{
    return PyModuleDef_Init(&MODULE);
}
