/* The same in steps. */

#include <hybridloop_await.h>

struct state {
    PyObject *awaitable;
};

static int init(void *state, PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    if (n != 1 || kwnames != NULL) {
        PyErr_SetString(PyExc_TypeError, "once() takes an awaitable");
        return -1;
    }
    ((struct state *)state)->awaitable = Py_NewRef(args[0]);
    return 0;
}

static int traverse(void *state, visitproc visit, void *arg)
{
    Py_VISIT(((struct state *)state)->awaitable);
    return 0;
}

static void drop(void *state)
{
    Py_XDECREF(((struct state *)state)->awaitable);
}

static int step(hla_frame *f)
{
    struct state *s = (struct state *)f->state;
    HLA_BEGIN(f);
    HLA_AWAIT(f, Py_NewRef(s->awaitable));
    HLA_RETURN(f, Py_NewRef(f->value));
    HLA_END(f);
}

static const hla_spec ONCE = {
    sizeof(hla_spec), NULL, step, sizeof(struct state), traverse, drop, 0, 0,
};
static const hla_function FUNCTIONS[] = {{"once", &ONCE, NULL, init}, {NULL, NULL, NULL, NULL}};

static int exec(PyObject *module)
{
    return hla_import() < 0 ? -1 : hla_add_functions(module, FUNCTIONS);
}

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, (void *)exec}, {0, NULL}};
static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "steps", NULL, 0, NULL, SLOTS, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_steps(void)
{
    return PyModuleDef_Init(&MODULE);
}
