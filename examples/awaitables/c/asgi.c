/* An ASGI application in C: an object whose async method __call__() answers requests. */

#include <hybridloop_await.h>

#include <stdio.h>

typedef struct {
    PyObject_HEAD
    unsigned long answered, cut_off;
} App;

/* What has to stay while a request is answered. */
struct request {
    App *app;
    PyObject *scope, *receive, *send, *body;
};

static int init(void *state, PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    struct request *r = (struct request *)state;
    if (n != 3 || kwnames != NULL) {
        PyErr_SetString(PyExc_TypeError, "an application takes a scope, receive() and send()");
        return -1;
    }
    r->app = (App *)Py_NewRef(self);
    r->scope = Py_NewRef(args[0]);
    r->receive = Py_NewRef(args[1]);
    r->send = Py_NewRef(args[2]);
    return 0;
}

static int traverse(void *state, visitproc visit, void *arg)
{
    struct request *r = (struct request *)state;
    Py_VISIT((PyObject *)r->app);
    Py_VISIT(r->scope);
    Py_VISIT(r->receive);
    Py_VISIT(r->send);
    Py_VISIT(r->body);
    return 0;
}

static void drop(void *state)
{
    struct request *r = (struct request *)state;
    Py_XDECREF((PyObject *)r->app);
    Py_XDECREF(r->scope);
    Py_XDECREF(r->receive);
    Py_XDECREF(r->send);
    Py_XDECREF(r->body);
}

/* Whether an item of a dict is that text; -1 with an exception if it is not there. */
static int item_is(PyObject *dict, const char *name, const char *text)
{
    int equal;
    PyObject *item = PyMapping_GetItemString(dict, name);
    if (item == NULL) {
        return -1;
    }
    equal = PyUnicode_Check(item) && PyUnicode_CompareWithASCIIString(item, text) == 0;
    Py_DECREF(item);
    return equal;
}

/* An item that may be missing: a new reference, or NULL without an exception unless there is an error. */
static PyObject *optional_item(PyObject *dict, const char *name)
{
    PyObject *item = PyMapping_GetItemString(dict, name);
    if (item == NULL && PyErr_ExceptionMatches(PyExc_KeyError)) {
        PyErr_Clear();
    }
    return item;
}

/* Takes over the body of a message: 1 if more follows, 0 if not, -1 with an exception. */
static int take_body(struct request *r, PyObject *message)
{
    PyObject *item, *joined;
    int more = 0;
    if ((item = optional_item(message, "body")) != NULL) {
        joined = PySequence_InPlaceConcat(r->body, item);
        Py_DECREF(item);
        if (joined == NULL) {
            return -1;
        }
        Py_DECREF(r->body);
        r->body = joined;
    }
    if (PyErr_Occurred()) {
        return -1;
    }
    if ((item = optional_item(message, "more_body")) != NULL) {
        more = PyObject_IsTrue(item);
        Py_DECREF(item);
    }
    return PyErr_Occurred() ? -1 : more;
}

/* send(message); takes over the message, or passes on its error. */
static PyObject *send(struct request *r, PyObject *message)
{
    PyObject *coroutine;
    if (message == NULL) {
        return NULL;
    }
    coroutine = PyObject_CallFunctionObjArgs(r->send, message, NULL);
    Py_DECREF(message);
    return coroutine;
}

static PyObject *start_message(int status, PyObject *body)
{
    char length[24];
    Py_ssize_t size = PyObject_Size(body);
    if (size < 0) {
        return NULL;
    }
    snprintf(length, sizeof(length), "%lld", (long long)size);
    return Py_BuildValue("{s:s,s:i,s:[(yy),(yy)]}", "type", "http.response.start", "status", status, "headers",
                         "content-type", "text/plain", "content-length", length);
}

static PyObject *body_message(PyObject *body)
{
    PyObject *bytes = PyBytes_FromObject(body);
    return bytes == NULL ? NULL : Py_BuildValue("{s:s,s:N}", "type", "http.response.body", "body", bytes);
}

/* async def __call__(self, scope, receive, send) */
static int answer(hla_frame *f)
{
    struct request *r = (struct request *)f->state;
    int is;
    HLA_BEGIN(f);
    if ((is = item_is(r->scope, "type", "http")) <= 0) {
        if (is == 0) {
            PyErr_SetString(PyExc_NotImplementedError, "this application only speaks HTTP");
        }
        HLA_RAISE(f);
    }
    if ((is = item_is(r->scope, "path", "/echo")) < 0) {
        HLA_RAISE(f);
    }
    if (is) {
        if ((r->body = PyByteArray_FromStringAndSize("", 0)) == NULL) {
            HLA_RAISE(f);
        }
        do {
            HLA_AWAIT(f, PyObject_CallNoArgs(r->receive));
            if ((is = item_is(f->value, "type", "http.disconnect")) != 0) {
                if (is < 0) {
                    HLA_RAISE(f);
                }
                r->app->cut_off++;
                HLA_RETURN(f, hla_none_());
            }
            if ((is = take_body(r, f->value)) < 0) {
                HLA_RAISE(f);
            }
        } while (is);
    } else if ((r->body = PyBytes_FromString("Hello from C!\n")) == NULL) {
        HLA_RAISE(f);
    }
    HLA_AWAIT(f, send(r, start_message(200, r->body)));
    HLA_AWAIT(f, send(r, body_message(r->body)));
    r->app->answered++;
    HLA_END(f);
}

/* How many requests were answered, and how many were cut off while their body was read. */
static PyObject *counts(PyObject *self, PyObject *unused)
{
    App *app = (App *)self;
    (void)unused;
    return Py_BuildValue("(kk)", app->answered, app->cut_off);
}

static const hla_spec ANSWER = {
    sizeof(hla_spec), NULL, answer, sizeof(struct request), traverse, drop, 0, 0,
};
static const hla_function ASYNC_METHODS[] = {
    {"__call__", &ANSWER, "__call__($self, scope, receive, send, /)\n--\n\nAnswer a request.", init},
    {NULL, NULL, NULL, NULL},
};
static PyMethodDef METHODS[] = {
    {"counts", counts, METH_NOARGS, "counts($self, /)\n--\n\nRequests answered and cut off."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot APP_SLOTS[] = {{Py_tp_methods, METHODS}, {0, NULL}};
static PyType_Spec APP = {"asgi.App", sizeof(App), 0, Py_TPFLAGS_DEFAULT, APP_SLOTS};

static int exec(PyObject *module)
{
    int status = -1;
    PyObject *type;
    if (hla_import() < 0 || (type = PyType_FromSpec(&APP)) == NULL) {
        return -1;
    }
    if (hla_add_methods((PyTypeObject *)type, ASYNC_METHODS) == 0) {
        status = PyModule_AddObjectRef(module, "App", type);
    }
    Py_DECREF(type);
    return status;
}

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, (void *)exec}, {0, NULL}};
static struct PyModuleDef ASGI = {PyModuleDef_HEAD_INIT, "asgi", NULL, 0, NULL, SLOTS, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_asgi(void)
{
    return PyModuleDef_Init(&ASGI);
}
