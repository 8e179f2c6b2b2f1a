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
    const hla_table *table = (const hla_table *)PyCapsule_Import(HLA_CAPSULE, 0);
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

#ifdef __cplusplus
}
#endif

#endif
