/*
 * The interface of PyAwaitable 2.x, on top of hybridloop_await.h: programs written for it compile unchanged.
 *
 * Differences: the objects are coroutines of hybridloop (PyAwaitable_GetType() is their class), so cancelling reaches what
 * they await, and one that is never awaited causes a RuntimeWarning instead of a ResourceWarning. PyAwaitable_Init() raises
 * ImportError without hybridloop. The callback of PyAwaitable_AsyncWith() gets the coroutine itself instead of an inner one.
 * The limited API can be used. docs/awaitables.md has more.
 */
#ifndef HYBRIDLOOP_PYAWAITABLE_H
#define HYBRIDLOOP_PYAWAITABLE_H

#include "hybridloop_await.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PyAwaitable_MAJOR_VERSION 2
#define PyAwaitable_MINOR_VERSION 1
#define PyAwaitable_MICRO_VERSION 0
#define PyAwaitable_PATCH_VERSION PyAwaitable_MICRO_VERSION
#define PyAwaitable_RELEASE_LEVEL 0xF
#define PyAwaitable_MAGIC_NUMBER 2100

#if defined(__cplusplus) || (defined(__STDC_VERSION__) && __STDC_VERSION__ >= 202311L)
#define PyAwaitable_thread_local thread_local
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L && !defined(__STDC_NO_THREADS__)
#define PyAwaitable_thread_local _Thread_local
#else
#define PyAwaitable_thread_local __thread
#endif

typedef hla_callback PyAwaitable_Callback;
typedef hla_error PyAwaitable_Error;
typedef hla_defer PyAwaitable_Defer;
typedef PyObject PyAwaitableObject;

/* Programs use these two, which the original header brings along for Python 3.11. */
#if PY_VERSION_HEX < 0x030C0000 && !defined(Py_LIMITED_API)
static inline PyObject *PyErr_GetRaisedException(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value != NULL && traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

static inline void PyErr_SetRaisedException(PyObject *exception)
{
    PyObject *type = (PyObject *)Py_TYPE(exception);
    Py_INCREF(type);
    PyErr_Restore(type, exception, PyException_GetTraceback(exception));
}
#endif

static inline int PyAwaitable_Init(void)
{
    return hla_import();
}

/* Borrowed; NULL with ImportError without hybridloop. */
static inline PyTypeObject *PyAwaitable_GetType(void)
{
    HLA_CALL_(NULL, callback_type());
}

static inline PyObject *PyAwaitable_New(void)
{
    return hla_new("PyAwaitable");
}

static inline int PyAwaitable_AddAwait(PyObject *aw, PyObject *coro, PyAwaitable_Callback cb,
                                       PyAwaitable_Error err)
{
    return hla_add_await(aw, coro, cb, err);
}

static inline int PyAwaitable_AddExpr(PyObject *aw, PyObject *expr, PyAwaitable_Callback cb,
                                      PyAwaitable_Error err)
{
    return hla_add_expr(aw, expr, cb, err);
}

static inline int PyAwaitable_DeferAwait(PyObject *aw, PyAwaitable_Defer cb)
{
    return hla_add_defer(aw, cb);
}

static inline int PyAwaitable_AsyncWith(PyObject *aw, PyObject *manager, PyAwaitable_Callback cb,
                                        PyAwaitable_Error err)
{
    return hla_add_with(aw, manager, cb, err);
}

static inline int PyAwaitable_SetResult(PyObject *aw, PyObject *result)
{
    return hla_set_result(aw, result);
}

static inline void PyAwaitable_Cancel(PyObject *aw)
{
    if (hla_clear(aw) < 0) {
        PyErr_WriteUnraisable(aw);
    }
}

/* Saves n more values of a type; get and set are functions of the table. */
#define HLA_SAVE_MORE_(type, get, set)                                       \
    do {                                                                     \
        va_list arguments;                                                   \
        Py_ssize_t before, i;                                                \
        int status;                                                          \
        type *all;                                                           \
        type const *saved;                                                   \
        const hla_table *table = hla_table_();                               \
        if (table == NULL) {                                                 \
            return -1;                                                       \
        }                                                                    \
        saved = table->get(aw, &before);                                     \
        if (saved == NULL && PyErr_Occurred()) {                             \
            return -1;                                                       \
        }                                                                    \
        if (n < 0) {                                                         \
            PyErr_SetString(PyExc_ValueError, "the number of values is negative"); \
            return -1;                                                       \
        }                                                                    \
        all = (type *)PyMem_Malloc((size_t)(before + n) * sizeof(type));     \
        if (all == NULL) {                                                   \
            PyErr_NoMemory();                                                \
            return -1;                                                       \
        }                                                                    \
        for (i = 0; i < before; i++) {                                       \
            all[i] = saved[i];                                               \
        }                                                                    \
        va_start(arguments, n);                                              \
        for (i = 0; i < n; i++) {                                            \
            all[before + i] = va_arg(arguments, type);                       \
        }                                                                    \
        va_end(arguments);                                                   \
        status = table->set(aw, before + n, all);                            \
        PyMem_Free(all);                                                     \
        return status;                                                       \
    } while (0)

#define HLA_UNPACK_(type, get)                                               \
    do {                                                                     \
        va_list arguments;                                                   \
        Py_ssize_t n, i;                                                     \
        type const *saved;                                                   \
        const hla_table *table = hla_table_();                               \
        if (table == NULL) {                                                 \
            return -1;                                                       \
        }                                                                    \
        saved = table->get(aw, &n);                                          \
        if (saved == NULL && PyErr_Occurred()) {                             \
            return -1;                                                       \
        }                                                                    \
        if (n == 0) {                                                        \
            PyErr_SetString(PyExc_RuntimeError, "the coroutine has no saved values"); \
            return -1;                                                       \
        }                                                                    \
        va_start(arguments, aw);                                             \
        for (i = 0; i < n; i++) {                                            \
            type *to = va_arg(arguments, type *);                            \
            if (to != NULL) {                                                \
                *to = saved[i];                                              \
            }                                                                \
        }                                                                    \
        va_end(arguments);                                                   \
        return 0;                                                            \
    } while (0)

/* PyAwaitable_SaveValues(aw, n, PyObject *...): behind those that are saved already. */
static inline int PyAwaitable_SaveValues(PyObject *aw, Py_ssize_t n, ...)
{
    typedef PyObject *object;
    HLA_SAVE_MORE_(object, values, save);
}

/* PyAwaitable_UnpackValues(aw, PyObject **...): as many as are saved, borrowed; NULL skips one. */
static inline int PyAwaitable_UnpackValues(PyObject *aw, ...)
{
    typedef PyObject *object;
    HLA_UNPACK_(object, values);
}

/* PyAwaitable_SaveArbValues(aw, n, void *...) */
static inline int PyAwaitable_SaveArbValues(PyObject *aw, Py_ssize_t n, ...)
{
    typedef void *pointer;
    HLA_SAVE_MORE_(pointer, pointers, save_pointers);
}

/* PyAwaitable_UnpackArbValues(aw, void **...) */
static inline int PyAwaitable_UnpackArbValues(PyObject *aw, ...)
{
    typedef void *pointer;
    HLA_UNPACK_(pointer, pointers);
}

static inline int hla_check_index_(Py_ssize_t index, Py_ssize_t n)
{
    if (index >= 0 && index < n) {
        return 0;
    }
    PyErr_SetString(PyExc_IndexError, "the coroutine has no saved value with this index");
    return -1;
}

/* Borrowed; NULL with IndexError if there is none. */
static inline PyObject *PyAwaitable_GetValue(PyObject *aw, Py_ssize_t index)
{
    Py_ssize_t n;
    PyObject *const *saved = hla_values(aw, &n);
    if ((saved == NULL && PyErr_Occurred()) || hla_check_index_(index, n) < 0) {
        return NULL;
    }
    return saved[index];
}

static inline int PyAwaitable_SetValue(PyObject *aw, Py_ssize_t index, PyObject *value)
{
    return hla_set_value(aw, index, value);
}

/* NULL with IndexError if there is none. */
static inline void *PyAwaitable_GetArbValue(PyObject *aw, Py_ssize_t index)
{
    Py_ssize_t n;
    const hla_table *table = hla_table_();
    void **saved = table == NULL ? NULL : table->pointers(aw, &n);
    if ((saved == NULL && PyErr_Occurred()) || hla_check_index_(index, n) < 0) {
        return NULL;
    }
    return saved[index];
}

static inline int PyAwaitable_SetArbValue(PyObject *aw, Py_ssize_t index, void *value)
{
    Py_ssize_t n;
    const hla_table *table = hla_table_();
    void **saved = table == NULL ? NULL : table->pointers(aw, &n);
    if ((saved == NULL && PyErr_Occurred()) || hla_check_index_(index, n) < 0) {
        return -1;
    }
    saved[index] = value;
    return 0;
}

#ifdef __cplusplus
}
#endif

#endif
