/* Coroutines of steps. */

#include <hybridloop_await.h>

#include <limits.h>
#include <string.h>

static int live_states; /* that were made and not dropped */

struct retry {
    PyObject *get, *number;
    int i;
};

static int retry_traverse(void *state, visitproc visit, void *arg)
{
    struct retry *s = (struct retry *)state;
    Py_VISIT(s->get);
    Py_VISIT(s->number);
    return 0;
}

static void retry_drop(void *state)
{
    struct retry *s = (struct retry *)state;
    live_states--;
    Py_XDECREF(s->get);
    Py_XDECREF(s->number);
}

/*
 * async def retry(get, number):
 *     try:
 *         value = await get()
 *     except TimeoutError:
 *         value = await get()
 *     for i in range(3):
 *         await asyncio.sleep(0)
 *     return value * number
 */
static int retry(hla_frame *f)
{
    struct retry *s = (struct retry *)f->state;
    HLA_BEGIN(f);
    HLA_TRY_AWAIT(f, PyObject_CallNoArgs(s->get));
    if (f->error) {
        if (!PyErr_GivenExceptionMatches(f->error, PyExc_TimeoutError)) HLA_RERAISE(f);
        HLA_AWAIT(f, PyObject_CallNoArgs(s->get));
    }
    {
        PyObject *product = PyNumber_Multiply(f->value, s->number);
        if (product == NULL) HLA_RAISE(f);
        Py_DECREF(s->number);
        s->number = product;
    }
    for (s->i = 0; s->i < 3; s->i++) HLA_SLEEP0(f);
    HLA_RETURN(f, Py_NewRef(s->number));
    HLA_END(f);
}

/* Awaits what a function gives for 0, 1, 2 and so on, until it gives None; returns how many those were. */
static int loop(hla_frame *f)
{
    struct retry *s = (struct retry *)f->state;
    HLA_BEGIN(f);
    for (s->i = 0;; s->i++) {
        {
            PyObject *awaitable = PyObject_CallFunction(s->get, "i", s->i);
            if (awaitable == Py_None) {
                Py_DECREF(awaitable);
                break;
            }
            HLA_AWAIT(f, awaitable);
        }
    }
    HLA_RETURN(f, PyLong_FromLong(s->i));
    HLA_END(f);
}

/* Awaits get(), and again while it raises; gives the result and the exceptions. */
static int stubborn(hla_frame *f)
{
    struct retry *s = (struct retry *)f->state;
    HLA_BEGIN(f);
    for (;;) {
        HLA_TRY_AWAIT(f, PyObject_CallNoArgs(s->get));
        if (f->error == NULL) {
            HLA_RETURN(f, PyTuple_Pack(2, f->value, s->number));
        }
        if (PyList_Append(s->number, f->error) < 0) HLA_RAISE(f);
    }
    HLA_END(f);
}

/* The two awaits of the test of coroutines of Python beside it. */
static int twice(hla_frame *f)
{
    struct retry *s = (struct retry *)f->state;
    HLA_BEGIN(f);
    HLA_AWAIT(f, PyObject_CallNoArgs(s->get));
    Py_DECREF(s->number);
    s->number = Py_NewRef(f->value);
    HLA_AWAIT(f, PyObject_CallNoArgs(s->get));
    HLA_RETURN(f, PyTuple_Pack(2, s->number, f->value));
    HLA_END(f);
}

/* Raises an exception of its own while it handles one. */
static int raises_in_handler(hla_frame *f)
{
    struct retry *s = (struct retry *)f->state;
    HLA_BEGIN(f);
    HLA_TRY_AWAIT(f, PyObject_CallNoArgs(s->get));
    if (f->error) {
        PyErr_SetString(PyExc_KeyError, "in the handler");
        HLA_RAISE(f);
    }
    HLA_END(f);
}

static int ends(hla_frame *f)
{
    (void)f;
    HLA_BEGIN(f);
    HLA_END(f);
}

/* Faults, by number. */
static int faulty(hla_frame *f)
{
    struct retry *s = (struct retry *)f->state;
    long fault = PyLong_AsLong(s->number);
    if (fault == 0) return HLA_STEP_ERROR;
    if (fault == 1) HLA_RETURN(f, NULL);
    if (fault == 2) {
        PyErr_SetString(PyExc_LookupError, "forgotten");
        HLA_RETURN(f, Py_NewRef(Py_None));
    }
    if (fault == 3) return 77;
    if (fault == 4) HLA_RERAISE(f);
    if (fault == 6) {
        PyObject *coroutine = PyObject_CallNoArgs(s->get);
        PyErr_SetString(PyExc_LookupError, "forgotten");
        f->out_ = coroutine;
        return HLA_STEP_AWAIT;
    }
    HLA_BEGIN(f);
    HLA_TRY_AWAIT(f, NULL);
    if (f->error) HLA_RERAISE(f);
    f->line_ = INT_MAX;
    HLA_SUSPEND_(f, Py_NewRef(Py_None), HLA_STEP_YIELD);
    HLA_END(f);
}

/* Gives the line that it goes on at to the macros. */
static int lost(hla_frame *f)
{
    f->line_ = 1;
    HLA_BEGIN(f);
    HLA_END(f);
}

static int yields(hla_frame *f)
{
    f->out_ = Py_NewRef(Py_None);
    return HLA_STEP_YIELD;
}

static int waits_for_nobody(hla_frame *f)
{
    HLA_BEGIN(f);
    HLA_WAIT(f);
    HLA_END(f);
}

static const char *const names[] = {"retry", "loop", "stubborn", "twice", "raises_in_handler",
                                    "ends",  "faulty", "lost", "yields", "waits_for_nobody"};
#define SPEC(name) \
    {sizeof(hla_spec), "tests.steps." #name, name, sizeof(struct retry), retry_traverse, retry_drop, 0, 0}
static const hla_spec specs[] = {SPEC(retry), SPEC(loop), SPEC(stubborn), SPEC(twice),
                                 SPEC(raises_in_handler), SPEC(ends), SPEC(faulty), SPEC(lost),
                                 SPEC(yields), SPEC(waits_for_nobody)};

/* new(name, get, number) */
static PyObject *new(PyObject *self, PyObject *args)
{
    const char *name;
    PyObject *get = Py_None, *number = Py_None, *coroutine;
    void *state;
    size_t i;
    (void)self;
    if (!PyArg_ParseTuple(args, "s|OO", &name, &get, &number)) {
        return NULL;
    }
    for (i = 0; i < sizeof(specs) / sizeof(specs[0]); i++) {
        if (strcmp(names[i], name) == 0) {
            struct retry *s;
            coroutine = hla_new_step(&specs[i], &state);
            if (coroutine == NULL) {
                return NULL;
            }
            live_states++;
            s = (struct retry *)state;
            s->get = Py_NewRef(get);
            s->number = Py_NewRef(number);
            return coroutine;
        }
    }
    PyErr_SetString(PyExc_KeyError, name);
    return NULL;
}

static PyObject *live(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return PyLong_FromLong(live_states);
}

/* Specs that are refused. */
static PyObject *refused(PyObject *self, PyObject *number)
{
    static const hla_spec wrong_size = {8, "wrong", ends, 0, NULL, NULL, 0, 0};
    static const hla_spec no_step = {sizeof(hla_spec), "wrong", NULL, 0, NULL, NULL, 0, 0};
    static const hla_spec wrong_flags = {sizeof(hla_spec), "wrong", ends, 0, NULL, NULL, 64, 0};
    static const hla_spec too_large = {sizeof(hla_spec), "wrong", ends, SIZE_MAX / 2, NULL, NULL, 0, 0};
    const hla_spec *all[] = {NULL, &wrong_size, &no_step, &wrong_flags, &too_large};
    (void)self;
    return hla_new_step(all[PyLong_AsLong(number)], NULL);
}

static PyMethodDef methods[] = {
    {"new", new, METH_VARARGS, NULL},
    {"live", live, METH_NOARGS, NULL},
    {"refused", refused, METH_O, NULL},
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
    PyModuleDef_HEAD_INIT, "steps", NULL, 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_steps(void)
{
    return PyModuleDef_Init(&definition);
}
