/* Coroutines that wait for threads. */

#include <hybridloop_await.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* What threads do, and what they tell. */
struct work {
    atomic_long count, references;
    long wakes;
    atomic_int stop;
};

static void release(struct work *work)
{
    if (atomic_fetch_sub(&work->references, 1) == 1) {
        free(work);
    }
}

static struct work *new_work(long wakes, long references)
{
    struct work *work = (struct work *)calloc(1, sizeof(*work));
    if (work != NULL) {
        atomic_init(&work->references, references);
        work->wakes = wakes;
    }
    return work;
}

/* A thread gets a waker and work of its own. */
struct job {
    hla_waker *waker;
    struct work *work;
};

static int start(void *(*function)(void *), hla_waker *waker, struct work *work)
{
    pthread_t thread;
    struct job *job = (struct job *)malloc(sizeof(*job));
    if (job == NULL || waker == NULL) {
        abort();
    }
    job->waker = waker;
    job->work = work;
    if (pthread_create(&thread, NULL, function, job) != 0) {
        abort();
    }
    return pthread_detach(thread);
}

/* Counts and wakes, again and again. */
static void *count_and_wake(void *arg)
{
    struct job *job = (struct job *)arg;
    long i;
    for (i = 0; i < job->work->wakes && !atomic_load(&job->work->stop); i++) {
        atomic_fetch_add(&job->work->count, 1);
        hla_wake(hla_waker_clone(job->waker));
    }
    hla_waker_drop(job->waker);
    release(job->work);
    free(job);
    return NULL;
}

/* Wakes until the process ends. */
static void *wake_for_ever(void *arg)
{
    struct job *job = (struct job *)arg;
    for (;;) {
        hla_wake(hla_waker_clone(job->waker));
    }
    return NULL;
}

static void *wake_once(void *arg)
{
    struct job *job = (struct job *)arg;
    atomic_fetch_add(&job->work->count, 1);
    hla_wake(job->waker);
    release(job->work);
    free(job);
    return NULL;
}

static void *drop_once(void *arg)
{
    struct job *job = (struct job *)arg;
    hla_waker_drop(job->waker);
    release(job->work);
    free(job);
    return NULL;
}

struct state {
    struct work *work;
    hla_waker *waker;
    long threads, rounds;
};

static void drop_state(void *state)
{
    struct state *s = (struct state *)state;
    if (s->waker != NULL) {
        hla_waker_drop(s->waker);
    }
    if (s->work != NULL) {
        atomic_store(&s->work->stop, 1);
        release(s->work);
    }
}

/* Waits until all threads have counted to the end; returns how often it was woken. */
static int counts(hla_frame *f)
{
    struct state *s = (struct state *)f->state;
    HLA_BEGIN(f);
    {
        long i;
        for (i = 0; i < s->threads; i++) {
            start(count_and_wake, hla_waker_new(f), s->work);
        }
    }
    while (atomic_load(&s->work->count) < s->threads * s->work->wakes) {
        HLA_WAIT(f);
        s->rounds++;
    }
    HLA_RETURN(f, PyLong_FromLong(s->rounds));
    HLA_END(f);
}

static int one_wake(hla_frame *f)
{
    struct state *s = (struct state *)f->state;
    HLA_BEGIN(f);
    start(wake_once, hla_waker_new(f), s->work);
    while (atomic_load(&s->work->count) == 0) HLA_WAIT(f);
    HLA_END(f);
}

/* A wake before the wait, and no other: the second wait finds nobody. */
static int woken_before(hla_frame *f)
{
    HLA_BEGIN(f);
    hla_wake(hla_waker_new(f));
    hla_wake(hla_waker_new(f));
    HLA_WAIT(f);
    HLA_WAIT(f);
    HLA_END(f);
}

static int dropped_before(hla_frame *f)
{
    HLA_BEGIN(f);
    hla_waker_drop(hla_waker_new(f));
    HLA_WAIT(f);
    HLA_END(f);
}

static int dropped_by_a_thread(hla_frame *f)
{
    struct state *s = (struct state *)f->state;
    HLA_BEGIN(f);
    start(drop_once, hla_waker_new(f), s->work);
    HLA_WAIT(f);
    HLA_END(f);
}

/* Keeps a waker, so that it waits for ever. */
static int for_ever(hla_frame *f)
{
    struct state *s = (struct state *)f->state;
    HLA_BEGIN(f);
    s->waker = hla_waker_new(f);
    for (;;) {
        HLA_WAIT(f);
        s->rounds++;
    }
    HLA_END(f);
}

static int woken_for_ever(hla_frame *f)
{
    struct state *s = (struct state *)f->state;
    HLA_BEGIN(f);
    {
        long i;
        for (i = 0; i < s->threads; i++) {
            start(wake_for_ever, hla_waker_new(f), s->work);
        }
    }
    for (;;) HLA_WAIT(f);
    HLA_END(f);
}

static const struct kind {
    const char *name;
    hla_spec spec;
} kinds[] = {
#define KIND(name) {#name, {sizeof(hla_spec), #name, name, sizeof(struct state), NULL, drop_state, 0, 0}}
    KIND(counts), KIND(one_wake), KIND(woken_before), KIND(dropped_before),
    KIND(dropped_by_a_thread), KIND(for_ever), KIND(woken_for_ever),
};

static PyObject *new(PyObject *self, PyObject *args)
{
    const char *name;
    long threads = 1, wakes = 1;
    size_t i;
    (void)self;
    if (!PyArg_ParseTuple(args, "s|ll", &name, &threads, &wakes)) {
        return NULL;
    }
    for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            void *state;
            PyObject *coroutine = hla_new_step(&kinds[i].spec, &state);
            if (coroutine != NULL) {
                ((struct state *)state)->threads = threads;
                ((struct state *)state)->work = new_work(wakes, threads + 1);
            }
            return coroutine;
        }
    }
    PyErr_SetString(PyExc_KeyError, name);
    return NULL;
}

/* Wakes a coroutine of the kind `for_ever`, from the calling thread. */
static hla_waker *kept;

static int keeps(hla_frame *f)
{
    HLA_BEGIN(f);
    kept = hla_waker_new(f);
    HLA_WAIT(f);
    HLA_END(f);
}

static PyObject *keeping(PyObject *self, PyObject *unused)
{
    static const hla_spec spec = {sizeof(hla_spec), "keeping", keeps, 0, NULL, NULL, 0, 0};
    (void)self, (void)unused;
    return hla_new_step(&spec, NULL);
}

static PyObject *wake(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    hla_wake(kept);
    kept = NULL;
    return Py_NewRef(Py_None);
}

static PyObject *drop(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    hla_waker_drop(kept);
    kept = NULL;
    return Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"new", new, METH_VARARGS, NULL},
    {"keeping", keeping, METH_NOARGS, NULL},
    {"wake", wake, METH_NOARGS, NULL},
    {"drop", drop, METH_NOARGS, NULL},
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
    PyModuleDef_HEAD_INIT, "wakers", NULL, 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_wakers(void)
{
    return PyModuleDef_Init(&definition);
}
