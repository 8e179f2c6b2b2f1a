/*
 * Coroutines written in C: they await Python's awaitables, and behave like those of `async def`.
 *
 * C99 or C++, with Python.h, also with Py_LIMITED_API 0x030B0000: one build of an extension then runs on CPython 3.11 and all
 * that follow. Nothing to link. docs/awaitables.md explains it with examples.
 *
 * Call hla_import() in the module's exec slot. All functions need an attached thread, except those marked "any thread".
 * Functions that return int give 0, or -1 with an exception set; those that return a pointer give NULL then.
 *
 * Stability: HLA_ABI stands for everything here. Within it, hla_table, hla_spec and hla_frame only grow at the end.
 */
#ifndef HYBRIDLOOP_AWAIT_H
#define HYBRIDLOOP_AWAIT_H

#include <Python.h>

#include <stddef.h>
#include <stdint.h>

#if PY_VERSION_HEX < 0x030B0000
#error "hybridloop_await.h needs CPython 3.11 or newer"
#endif
#if defined(Py_LIMITED_API) && Py_LIMITED_API + 0 < 0x030B0000
#error "hybridloop_await.h needs Py_LIMITED_API 0x030B0000 or newer"
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define HLA_ABI 1u
#define HLA_CAPSULE "hybridloop._core._await_v1"

/*
 * Callbacks. `aw` is the coroutine; value and exc are borrowed. While an error callback runs, exc is the exception that is
 * being handled, as in an `except` block, and no exception is set.
 *
 * | returned                | by a result or defer callback               | by an error callback                                |
 * |-------------------------|---------------------------------------------|-----------------------------------------------------|
 * | 0 or more               | go on; 1 from the item callback of          | the error is dealt with: go on                      |
 * |                         | hla_add_for(): end the loop, as `break`     |                                                     |
 * | -1                      | the exception that is set goes to the error | exc is raised again                                 |
 * |                         | callback, if there is one                   |                                                     |
 * | -2 or less              | the exception that is set is raised past    | the exception that is set is raised; exc becomes    |
 * |                         | the error callback                          | its __context__                                     |
 * | an error without an     | SystemError, past the error callback        | SystemError                                         |
 * | exception, or 0 or more |                                             |                                                     |
 * | with one                |                                             |                                                     |
 */
typedef int (*hla_callback)(PyObject *aw, PyObject *value);
typedef int (*hla_error)(PyObject *aw, PyObject *exc);
typedef int (*hla_defer)(PyObject *aw);

/*
 * Steps: a C function that goes on where it has stopped. Local variables do not survive an await: keep them in the state,
 * which is zeroed at first.
 *
 *     static int fetch(hla_frame *f)
 *     {
 *         struct fetch *s = (struct fetch *)f->state;
 *         HLA_BEGIN(f);
 *         HLA_TRY_AWAIT(f, PyObject_CallNoArgs(s->get));  // a new reference, or NULL with an exception
 *         if (f->error) {
 *             if (!PyErr_GivenExceptionMatches(f->error, PyExc_TimeoutError)) HLA_RERAISE(f);
 *             HLA_AWAIT(f, PyObject_CallNoArgs(s->get));  // an exception is raised here
 *         }
 *         HLA_RETURN(f, PyNumber_Multiply(f->value, s->number));
 *         HLA_END(f);
 *     }
 *
 * HLA_BEGIN to HLA_END are a `switch` over the line: two of these macros must not stand on one line, and no `switch` of the
 * program may surround one. The function begins with HLA_BEGIN; what stands before it runs at each step.
 */
typedef struct hla_frame {
    PyObject *self;  /* the coroutine or generator; borrowed */
    void *state;     /* of the size in hla_spec */
    PyObject *value; /* the result of the last await; owned by the frame until the next one */
    PyObject *error; /* the exception of the last await, or NULL; it is being handled as in an `except` block */
    /* for the macros */
    PyObject *out_;
    int line_;
    uint32_t reserved_;
} hla_frame;

typedef int (*hla_step)(hla_frame *f);

#define HLA_GENERATOR 1u /* an async generator, which gives items by HLA_YIELD */

/* Constant, as PyMethodDef. */
typedef struct hla_spec {
    size_t size; /* sizeof(hla_spec) */
    const char *qualname;
    hla_step step;
    size_t state_size;
    /* Shows the objects in the state to the garbage collector; may be NULL. */
    int (*traverse)(void *state, visitproc visit, void *arg);
    /* Releases what the state holds. It is called once, at every end, also if the coroutine was never awaited. May be NULL. */
    void (*drop)(void *state);
    uint32_t flags;
    uint32_t reserved;
} hla_spec;

/*
 * A function or method in a table: calls make coroutines or, with HLA_GENERATOR, async generators. init fills the state when the
 * function is called: wrong arguments are an error of the call. The body begins with the first step. self is the module, or
 * the object; args and kwnames are those of METH_FASTCALL | METH_KEYWORDS. The state holds what init puts into it, and is
 * dropped if init fails. Without init the function takes no arguments. doc may begin with a signature, as in PyMethodDef.
 */
typedef struct hla_function {
    const char *name;
    const hla_spec *spec; /* its qualname may be NULL: then it is that of the function */
    const char *doc;
    int (*init)(void *state, PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames);
} hla_function;

/* Wakes a coroutine that waits, from any thread. */
typedef struct hla_waker hla_waker;
struct hla_waker {
    const struct hla_waker_functions {
        hla_waker *(*clone)(hla_waker *);
        void (*wake)(hla_waker *);
        void (*drop)(hla_waker *);
    } *functions;
};

typedef struct hla_table {
    uint32_t size;
    uint32_t abi;
    const char *version; /* of hybridloop */
    PyObject *(*new_)(const char *);
    int (*add_await)(PyObject *, PyObject *, hla_callback, hla_error);
    int (*add_defer)(PyObject *, hla_defer);
    int (*add_with)(PyObject *, PyObject *, hla_callback, hla_error);
    int (*add_for)(PyObject *, PyObject *, hla_callback, hla_defer, hla_error);
    int (*set_result)(PyObject *, PyObject *);
    int (*clear)(PyObject *);
    int (*save)(PyObject *, Py_ssize_t, PyObject *const *);
    PyObject *const *(*values)(PyObject *, Py_ssize_t *);
    int (*set_value)(PyObject *, Py_ssize_t, PyObject *);
    int (*save_pointers)(PyObject *, Py_ssize_t, void *const *);
    void **(*pointers)(PyObject *, Py_ssize_t *);
    int (*set_state)(PyObject *, void *, void (*)(void *), int (*)(void *, visitproc, void *));
    void *(*state)(PyObject *);
    PyTypeObject *(*callback_type)(void);
    PyObject *(*new_step)(const hla_spec *, void **);
    hla_waker *(*waker_new)(hla_frame *);
    int (*add_functions)(PyObject *, const hla_function *);
    int (*add_methods)(PyTypeObject *, const hla_function *);
} hla_table;

/* What hla_import() has found. Each file of an extension has one, which is filled on first use. */
static const hla_table *hla_imported_;

/* ImportError with the versions of both sides. */
static inline void hla_raise_import_error_(unsigned abi, unsigned size, const char *version)
{
    PyErr_Format(PyExc_ImportError,
                 "this module needs hybridloop with version %u of hybridloop_await.h (%u bytes), "
                 "but hybridloop %s has version %u (%u bytes)",
                 HLA_ABI, (unsigned)sizeof(hla_table), version, abi, size);
}

/* Imports hybridloop: 0, or -1 with ImportError. */
static inline int hla_import(void)
{
    const hla_table *table;
    /* First, because PyCapsule_Import() does not say why an import fails. */
    PyObject *package = PyImport_ImportModule("hybridloop");
    if (package == NULL) {
        return -1;
    }
    Py_DECREF(package);
    table = (const hla_table *)PyCapsule_Import(HLA_CAPSULE, 0);
    if (table == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
            hla_raise_import_error_(0, 0, "(an older one)");
        }
        return -1;
    }
    if (table->abi != HLA_ABI || table->size < sizeof(hla_table)) {
        hla_raise_import_error_(table->abi, table->size, table->version);
        return -1;
    }
    hla_imported_ = table;
    return 0;
}

static inline const hla_table *hla_table_(void)
{
    if (hla_imported_ == NULL && hla_import() < 0) {
        return NULL;
    }
    return hla_imported_;
}

#define HLA_CALL_(failed, call)           \
    do {                                  \
        const hla_table *t = hla_table_(); \
        return t == NULL ? (failed) : t->call; \
    } while (0)

/*
 * A coroutine of callbacks. What is queued is awaited in order; callbacks may queue more, which comes behind what is queued
 * already. qualname is a constant, as the names in PyMethodDef; with NULL it is "native coroutine".
 */
static inline PyObject *hla_new(const char *qualname)
{
    HLA_CALL_(NULL, new_(qualname));
}

/* `await awaitable`. ValueError for NULL (an exception that is set stays) and for aw itself, TypeError for what is not
 * awaitable, RuntimeError once the coroutine has ended. Both callbacks may be NULL. */
static inline int hla_add_await(PyObject *aw, PyObject *awaitable, hla_callback cb, hla_error err)
{
    HLA_CALL_(-1, add_await(aw, awaitable, cb, err));
}

/* The same for a new reference, which is released, or NULL after an error, which stays set. */
static inline int hla_add_expr(PyObject *aw, PyObject *expr, hla_callback cb, hla_error err)
{
    int status;
    if (expr == NULL) {
        return -1;
    }
    status = hla_add_await(aw, expr, cb, err);
    Py_DECREF(expr);
    return status;
}

/* Calls a function in its turn. */
static inline int hla_add_defer(PyObject *aw, hla_defer fn)
{
    HLA_CALL_(-1, add_defer(aw, fn));
}

/* `async with manager`. What body queues is awaited within the block; its errors go to `__aexit__`, and to err unless that
 * suppresses them. */
static inline int hla_add_with(PyObject *aw, PyObject *manager, hla_callback body, hla_error err)
{
    HLA_CALL_(-1, add_with(aw, manager, body, err));
}

/* `async for`. What item queues is awaited before the next item; end is called unless the loop ends by an error or by 1 from
 * item. Each callback may be NULL. */
static inline int hla_add_for(PyObject *aw, PyObject *aiterable, hla_callback item, hla_defer end,
                              hla_error err)
{
    HLA_CALL_(-1, add_for(aw, aiterable, item, end, err));
}

/* The result: None, unless it is set. A later one replaces it. */
static inline int hla_set_result(PyObject *aw, PyObject *value)
{
    HLA_CALL_(-1, set_result(aw, value));
}

/* Closes and drops what is queued. What is being awaited goes on. A coroutine that is dropped afterwards without having been
 * awaited causes no warning: call this when the function that has made it fails. */
static inline int hla_clear(PyObject *aw)
{
    HLA_CALL_(-1, clear(aw));
}

/* Saves objects for the callbacks, in place of those saved before. */
static inline int hla_save(PyObject *aw, Py_ssize_t n, PyObject *const *values)
{
    HLA_CALL_(-1, save(aw, n, values));
}

/* The saved objects, borrowed until the next hla_save(); NULL without an exception if there are none. */
static inline PyObject *const *hla_values(PyObject *aw, Py_ssize_t *n)
{
    HLA_CALL_(NULL, values(aw, n));
}

/* Replaces one of the saved objects; IndexError if there is none. */
static inline int hla_set_value(PyObject *aw, Py_ssize_t index, PyObject *value)
{
    HLA_CALL_(-1, set_value(aw, index, value));
}

/* Memory for the callbacks. drop is called once: when the coroutine ends, when it is dropped, or when other memory is set.
 * traverse shows the objects in it to the garbage collector. Both may be NULL. After an error the caller keeps the memory. */
static inline int hla_set_state(PyObject *aw, void *state, void (*drop)(void *),
                                int (*traverse)(void *, visitproc, void *))
{
    HLA_CALL_(-1, set_state(aw, state, drop, traverse));
}

/* NULL without an exception if none is set. */
static inline void *hla_state(PyObject *aw)
{
    HLA_CALL_(NULL, state(aw));
}

/* A coroutine of steps, or an async generator, and its state to be filled. An exception that is thrown in before the first step ends it without a
 * step. ValueError if the spec is NULL, has no step, a wrong size or unknown flags. */
static inline PyObject *hla_new_step(const hla_spec *spec, void **state)
{
    HLA_CALL_(NULL, new_step(spec, state));
}

/* What a step returns. */
#define HLA_STEP_RERAISE (-2)
#define HLA_STEP_ERROR (-1) /* an exception is set */
#define HLA_STEP_RETURN 0
#define HLA_STEP_AWAIT 1
#define HLA_STEP_SLEEP0 2
#define HLA_STEP_WAIT 3
#define HLA_STEP_YIELD 4

#define HLA_BEGIN(f)       \
    switch ((f)->line_) {  \
    case 0:

/* The end of the function: it returns None. */
#define HLA_END(f)                                                                \
    HLA_RETURN(f, hla_none_());                                                   \
    default:                                                                      \
        PyErr_SetString(PyExc_SystemError, "a step went on where there is none"); \
        return HLA_STEP_ERROR;                                                    \
    }

static inline PyObject *hla_none_(void)
{
    Py_INCREF(Py_None);
    return Py_None;
}

#define HLA_SUSPEND_(f, expr, status) \
    do {                              \
        (f)->out_ = (expr);           \
        (f)->line_ = __LINE__;        \
        return (status);              \
    case __LINE__:;                   \
    } while (0)

#define HLA_RERAISE_ERROR_(f)          \
    do {                               \
        if ((f)->error != NULL) {      \
            return HLA_STEP_RERAISE;   \
        }                              \
    } while (0)

/* `await expr`, where expr is a new reference, or NULL with an exception, which then is the exception of the await. The result
 * is f->value; an exception is f->error. */
#define HLA_TRY_AWAIT(f, expr) HLA_SUSPEND_(f, expr, HLA_STEP_AWAIT)

/* The same; an exception ends the function. */
#define HLA_AWAIT(f, expr)                   \
    do {                                     \
        HLA_SUSPEND_(f, expr, HLA_STEP_AWAIT); \
        HLA_RERAISE_ERROR_(f);               \
    } while (0)

/* Lets the event loop of asyncio run once, as `asyncio.sleep(0)`. */
#define HLA_SLEEP0(f)                          \
    do {                                       \
        HLA_SUSPEND_(f, NULL, HLA_STEP_SLEEP0); \
        HLA_RERAISE_ERROR_(f);                 \
    } while (0)

/* Gives an item of an async generator, a new reference, or NULL with an exception, which is raised here. f->value is then what
 * asend() has brought. */
#define HLA_YIELD(f, expr)                     \
    do {                                       \
        HLA_SUSPEND_(f, expr, HLA_STEP_YIELD); \
        HLA_RERAISE_ERROR_(f);                 \
    } while (0)

/* The same; what athrow() and aclose() raise is f->error. */
#define HLA_TRY_YIELD(f, expr) HLA_SUSPEND_(f, expr, HLA_STEP_YIELD)

/* `return expr`, a new reference, or NULL with an exception */
#define HLA_RETURN(f, expr)      \
    do {                         \
        (f)->out_ = (expr);      \
        return HLA_STEP_RETURN;  \
    } while (0)

/* Raises the exception that is set. */
#define HLA_RAISE(f) return ((void)(f), HLA_STEP_ERROR)

/* Raises f->error again. */
#define HLA_RERAISE(f) return ((void)(f), HLA_STEP_RERAISE)

/*
 * Waiting for another thread, on every event loop of asyncio: make a waker, give it to the thread, and wait.
 *
 *     start_work(s->job, hla_waker_new(f));
 *     while (!is_done(s->job)) HLA_WAIT(f);
 *
 * HLA_WAIT may go on early, so look again. A wake before the wait is not lost, and wakes that come together count once. When
 * all wakers of the coroutine were used or dropped and none has woken it since the last HLA_WAIT, the wait raises
 * RuntimeError instead of waiting for ever.
 */
#define HLA_WAIT(f)                          \
    do {                                     \
        HLA_SUSPEND_(f, NULL, HLA_STEP_WAIT); \
        HLA_RERAISE_ERROR_(f);               \
    } while (0)

/* Adds functions to a module; the table is constant and ends with a name that is NULL. They are of hybridloop.AsyncFunction. */
static inline int hla_add_functions(PyObject *module, const hla_function *functions)
{
    HLA_CALL_(-1, add_functions(module, functions));
}

/* Adds methods to a type of the heap that is not immutable. */
static inline int hla_add_methods(PyTypeObject *type, const hla_function *methods)
{
    HLA_CALL_(-1, add_methods(type, methods));
}

/* A waker, for the step that runs. */
static inline hla_waker *hla_waker_new(hla_frame *f)
{
    HLA_CALL_(NULL, waker_new(f));
}

/* Another waker for the same coroutine. Any thread, no interpreter. */
static inline hla_waker *hla_waker_clone(hla_waker *waker)
{
    return waker->functions->clone(waker);
}

/* Wakes, and gives the waker up. Any thread, no interpreter, also while or after it ends. */
static inline void hla_wake(hla_waker *waker)
{
    waker->functions->wake(waker);
}

/* Gives the waker up. Any thread, no interpreter. */
static inline void hla_waker_drop(hla_waker *waker)
{
    waker->functions->drop(waker);
}

#ifdef __cplusplus
}
#endif

#endif
