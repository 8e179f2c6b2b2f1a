/* Functions, methods and async generators. */

#include <hybridloop_await.h>

struct state {
    PyObject *a, *b;
    int i;
};

static int live_states;

static int traverse(void *state, visitproc visit, void *arg)
{
    struct state *s = (struct state *)state;
    Py_VISIT(s->a);
    Py_VISIT(s->b);
    return 0;
}

static void drop(void *state)
{
    struct state *s = (struct state *)state;
    live_states--;
    Py_XDECREF(s->a);
    Py_XDECREF(s->b);
}

/* One or two arguments: a, and b = None, which may be a keyword. */
static int init(void *state, PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    struct state *s = (struct state *)state;
    Py_ssize_t keywords = kwnames == NULL ? 0 : PyTuple_Size(kwnames);
    (void)self;
    live_states++;
    if (n < 1 || n + keywords > 2) {
        PyErr_SetString(PyExc_TypeError, "expected one or two arguments");
        return -1;
    }
    if (keywords == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GetItem(kwnames, 0), "b") != 0) {
        PyErr_SetString(PyExc_TypeError, "unexpected keyword");
        return -1;
    }
    s->a = Py_NewRef(args[0]);
    s->b = Py_NewRef(n + keywords == 2 ? args[1] : Py_None);
    return 0;
}

/* The object itself, and one argument. */
static int init_method(void *state, PyObject *self, PyObject *const *args, Py_ssize_t n,
                       PyObject *kwnames)
{
    struct state *s = (struct state *)state;
    (void)kwnames;
    live_states++;
    if (n != 1) {
        PyErr_SetString(PyExc_TypeError, "expected one argument");
        return -1;
    }
    s->a = Py_NewRef(args[0]);
    s->b = Py_NewRef(self);
    return 0;
}

static int init_without_exception(void *state, PyObject *self, PyObject *const *args, Py_ssize_t n,
                                  PyObject *kwnames)
{
    (void)state, (void)self, (void)args, (void)kwnames;
    live_states++;
    if (n == 1) {
        PyErr_SetString(PyExc_LookupError, "forgotten");
        return 0;
    }
    return -1;
}

static int pair(hla_frame *f)
{
    struct state *s = (struct state *)f->state;
    HLA_BEGIN(f);
    HLA_AWAIT(f, Py_NewRef(s->a));
    HLA_RETURN(f, PyTuple_Pack(2, f->value, s->b));
    HLA_END(f);
}

static int nothing(hla_frame *f)
{
    HLA_BEGIN(f);
    HLA_END(f);
}

/*
 * async def echo(a, b=None):
 *     for i in range(3):
 *         await a()
 *         try:
 *             b = yield i, b
 *         except LookupError as error:
 *             b = error
 *         except BaseException:
 *             await a()
 *             raise
 */
static int echo(hla_frame *f)
{
    struct state *s = (struct state *)f->state;
    HLA_BEGIN(f);
    for (s->i = 0; s->i < 3; s->i++) {
        HLA_AWAIT(f, PyObject_CallNoArgs(s->a));
        HLA_TRY_YIELD(f, Py_BuildValue("(iO)", s->i, s->b));
        if (f->error) {
            Py_DECREF(s->b);
            s->b = Py_NewRef(f->error);
            if (!PyErr_GivenExceptionMatches(s->b, PyExc_LookupError)) {
                HLA_TRY_AWAIT(f, PyObject_CallNoArgs(s->a));
                PyErr_SetObject((PyObject *)Py_TYPE(s->b), s->b);
                HLA_RAISE(f);
            }
        } else {
            Py_DECREF(s->b);
            s->b = Py_NewRef(f->value);
        }
    }
    HLA_END(f);
}

static int numbers(hla_frame *f)
{
    struct state *s = (struct state *)f->state;
    HLA_BEGIN(f);
    for (s->i = 0; s->i < PyLong_AsLong(s->a); s->i++) {
        HLA_YIELD(f, PyLong_FromLong(s->i));
    }
    if (PyErr_GivenExceptionMatches(s->b, PyExc_BaseException)) {
        PyErr_SetObject((PyObject *)Py_TYPE(s->b), s->b);
        HLA_RAISE(f);
    }
    HLA_END(f);
}

/* Yields on whatever is thrown in. */
static int ignores(hla_frame *f)
{
    HLA_BEGIN(f);
    for (;;) HLA_TRY_YIELD(f, Py_NewRef(Py_None));
    HLA_END(f);
}

static int returns(hla_frame *f)
{
    HLA_BEGIN(f);
    HLA_RETURN(f, PyLong_FromLong(1));
    HLA_END(f);
}

static const hla_spec pair_spec = {sizeof(hla_spec), NULL, pair, sizeof(struct state), traverse, drop, 0, 0};
static const hla_spec named_spec = {sizeof(hla_spec), "somewhere.named", pair, sizeof(struct state), traverse, drop, 0, 0};
static const hla_spec nothing_spec = {sizeof(hla_spec), NULL, nothing, 0, NULL, NULL, 0, 0};
static const hla_spec echo_spec = {sizeof(hla_spec), NULL, echo, sizeof(struct state), traverse, drop, HLA_GENERATOR, 0};
static const hla_spec numbers_spec = {sizeof(hla_spec), NULL, numbers, sizeof(struct state), traverse, drop, HLA_GENERATOR, 0};
static const hla_spec ignores_spec = {sizeof(hla_spec), NULL, ignores, 0, NULL, NULL, HLA_GENERATOR, 0};
static const hla_spec returns_spec = {sizeof(hla_spec), NULL, returns, 0, NULL, NULL, HLA_GENERATOR, 0};

static const hla_function functions[] = {
    {"pair", &pair_spec, "pair($module, a, /, b=None)\n--\n\nAwait a; give its result and b.", init},
    {"named", &named_spec, NULL, init},
    {"nothing", &nothing_spec, "Give nothing.", NULL},
    {"faulty", &pair_spec, NULL, init_without_exception},
    {"echo", &echo_spec, "echo($module, a, /, b=None)\n--\n\nGive numbers.", init},
    {"numbers", &numbers_spec, NULL, init},
    {"ignores", &ignores_spec, NULL, NULL},
    {"returns", &returns_spec, NULL, NULL},
    {NULL, NULL, NULL, NULL},
};

static const hla_function thing_methods[] = {
    {"get", &pair_spec, "get($self, a, /)\n--\n\nAwait a; give its result and the object.", init_method},
    {"items", &numbers_spec, "items($self, n, /)\n--\n\nGive numbers.", init_method},
    {NULL, NULL, NULL, NULL},
};

static PyType_Slot thing_slots[] = {{Py_tp_doc, (void *)"A thing."}, {0, NULL}};
static PyType_Spec thing_spec = {"functions.Thing", 0, 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, thing_slots};

static PyObject *live(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return PyLong_FromLong(live_states);
}

/* Adds a wrong table. */
static PyObject *refused(PyObject *self, PyObject *args)
{
    static const hla_function no_spec[] = {{"wrong", NULL, NULL, NULL}, {NULL, NULL, NULL, NULL}};
    PyObject *owner;
    int status, which;
    (void)self;
    if (!PyArg_ParseTuple(args, "Oi", &owner, &which)) {
        return NULL;
    }
    if (which == 0) {
        status = hla_add_functions(owner, NULL);
    } else if (which == 1) {
        status = hla_add_functions(owner, no_spec);
    } else if (which == 2) {
        status = hla_add_functions(owner, functions);
    } else {
        status = hla_add_methods((PyTypeObject *)owner, thing_methods);
    }
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"live", live, METH_NOARGS, NULL},
    {"refused", refused, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int exec_module(PyObject *module)
{
    PyObject *thing;
    if (hla_import() < 0 || hla_add_functions(module, functions) < 0) {
        return -1;
    }
    thing = PyType_FromSpec(&thing_spec);
    if (thing == NULL || hla_add_methods((PyTypeObject *)thing, thing_methods) < 0) {
        Py_XDECREF(thing);
        return -1;
    }
    if (PyModule_AddObjectRef(module, "Thing", thing) < 0) {
        Py_DECREF(thing);
        return -1;
    }
    Py_DECREF(thing);
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)exec_module},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "functions", NULL, 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_functions(void)
{
    return PyModuleDef_Init(&definition);
}
