/*
 * Native kernels for hybridloop: C99, no Python.h, nothing to link.
 *
 * A kernel is a function that hybridloop calls on a worker thread, never with Python's lock held. A shared library exports
 * one symbol, hybridloop_module(), which names its kernels; the host passes a table of functions to each call.
 * docs/kernels.md explains it with examples.
 *
 * Stability: a number HL_ABI stands for everything here. Within it, hl_host, hl_kernel and hl_module only grow at the end;
 * each begins with its size, and a field may be used only if the size covers it (HL_HAS). hl_buf and hl_val never change.
 * Reserved fields are zero. A host refuses a module of another HL_ABI and keeps every module that it has loaded.
 */
#ifndef HYBRIDLOOP_H
#define HYBRIDLOOP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HL_ABI 1u
#define HL_MAGIC 0x4c4b4c48u /* "HLKL" */
#define HL_CAPSULE "hybridloop.kernel.v1" /* name of a PyCapsule that holds a const hl_kernel * */

/* Whether a size-prefixed struct, as its maker knew it, has a field. */
#define HL_HAS(ptr, type, field) \
    ((ptr)->size >= offsetof(type, field) + sizeof(((const type *)0)->field))

/*
 * What a kernel and the functions of the host return: 0, or what went wrong. The codes below become the Python exceptions
 * beside them. Every other value but 0 is the kernel's own and becomes NativeKernelError(code, message, kernel); use
 * positive numbers, since further negative ones may be given a meaning here.
 */
#define HL_OK 0
#define HL_EINVAL (-1)     /* ValueError */
#define HL_ETYPE (-2)      /* TypeError */
#define HL_ENOMEM (-3)     /* MemoryError; also: a limit of the engine would be passed */
#define HL_ECANCELED (-4)  /* the job was cancelled */
#define HL_ETIMEDOUT (-5)  /* TimeoutError; the job's deadline has passed */
#define HL_ENOTFOUND (-6)  /* KeyError */
#define HL_EOVERFLOW (-7)  /* OverflowError */
#define HL_EEMPTY (-8)     /* a channel has nothing to take */
#define HL_ECLOSED (-9)    /* a channel, or the engine, is closed */
#define HL_EPANIC (-10)    /* a kernel written in Rust panicked */
#define HL_ERESULT (-11)   /* what the kernel returned is not a value */
#define HL_EUNKNOWN (-12)  /* everything else */
#define HL_PENDING (-13)   /* no error: the kernel has taken a token, and complete() ends the call */

/* Kinds of values. An argument for a parameter of a number has the kind of its type: HL_BOOL for bool, HL_I64 for i8 ... i64, HL_U64 for
   u8 ... u64, HL_F64 for f32 and f64. A number that is the result may have another kind: it is converted to the declared type, and if
   that cannot hold it, the job fails. */
#define HL_NONE 0u
#define HL_BOOL 1u /* u.i is 0 or 1 */
#define HL_I64 2u  /* u.i */
#define HL_U64 3u  /* u.u */
#define HL_F64 4u  /* u.f */
#define HL_STR 5u  /* u.b.data and u.b.len: UTF-8 without a final zero */
#define HL_BUF 6u  /* u.b */
#define HL_KEY 7u  /* u.b.data and u.b.len: a key of the bus */
#define HL_CHAN 8u /* u.u: a channel, for chan_push() and chan_pop(), valid until the call ends */

/* Flags of a buffer. */
#define HL_WRITABLE 1u   /* an argument that the kernel may write to */
#define HL_CONTIGUOUS 2u /* elements lie one after another in C order */
#define HL_COPY 4u       /* a result in other memory that outlives the call, such as a constant: the host copies it */

/* Flags of a kernel. */
#define HL_ASYNC 1u      /* it may return HL_PENDING */
#define HL_EMIT_WAITS 2u /* emit() waits while the queue is full */

/* Flags of bus_push() and bus_open(). */
#define HL_BUS_JOB 1u /* the key belongs to the job and goes with the job's handle */

/* One call of a kernel; valid until the call ends: when the kernel returns or, if that is with HL_PENDING, when its token is
   completed as well. */
typedef struct hl_ctx hl_ctx;

/*
 * Memory with a shape. As an argument it stays in place until the call ends. As a result, data lies in memory of
 * alloc(), bus_get() or bus_pop() and is handed to Python without a copy, or flags has HL_COPY; the same goes for text. fmt is an element format of
 * Python's struct module, or NULL for bytes ("B"). shape and strides may be NULL if ndim is at most 1.
 */
typedef struct hl_buf {
    const void *data; /* with HL_WRITABLE it may be cast to void * */
    size_t len;       /* bytes */
    uint32_t flags;
    uint32_t itemsize; /* 0 in a result means 1 */
    const char *fmt;
    int32_t ndim;
    uint32_t reserved;
    const int64_t *shape;   /* elements along each dimension */
    const int64_t *strides; /* bytes from one element to the next along each dimension */
} hl_buf;

typedef struct hl_val {
    uint32_t kind;
    uint32_t reserved;
    union {
        int64_t i;
        uint64_t u;
        double f;
        hl_buf b;
        uint64_t reserved[8];
    } u;
} hl_val;

/*
 * What the host does for a kernel. The table lives as long as the process. Every function may be called by several threads at a
 * time as long as the call has not ended, and none of them waits for Python. Functions that return int32_t give a code as above.
 */
typedef struct hl_host {
    uint32_t size;
    uint32_t abi;
    /* 0; HL_ECANCELED after job.cancel() or at shutdown; HL_ETIMEDOUT past the deadline. Cheap enough for inner loops. */
    int32_t (*cancelled)(const hl_ctx *);
    /* How far the job is. Python hears of the latest state, not of each. */
    void (*progress)(hl_ctx *, uint64_t done, uint64_t total);
    /* Zeroed memory, charged to the engine, given back when the job ends unless it is part of the result; align is a power
       of two, 64 at most; NULL if a limit would be passed. resize() keeps the alignment, may move, and zeroes what is new. */
    void *(*alloc)(hl_ctx *, size_t n, size_t align);
    void *(*resize)(hl_ctx *, void *, size_t n);
    void (*free)(hl_ctx *, void *);
    /* Sets the message that goes with an error, copies it, and returns code. */
    int32_t (*fail)(hl_ctx *, int32_t code, const char *utf8, size_t n);
    /* The bus: create or overwrite in one step, or open, fill data (zero at first), and seal its first len bytes. From open to seal the key
       is busy for Python; what is not sealed when the call ends is aborted. */
    int32_t (*bus_push)(hl_ctx *, const void *key, size_t key_len, const void *data, size_t n, uint32_t flags);
    int32_t (*bus_open)(hl_ctx *, const void *key, size_t key_len, size_t n, uint32_t flags, void **data);
    int32_t (*bus_seal)(hl_ctx *, void *data, size_t len);
    int32_t (*bus_abort)(hl_ctx *, void *data);
    /* Reads what is sealed, and stays valid until the call ends whatever happens to the key; pop also removes it, and of
       several that pop one wins. */
    int32_t (*bus_get)(hl_ctx *, const void *key, size_t key_len, hl_buf *);
    int32_t (*bus_pop)(hl_ctx *, const void *key, size_t key_len, hl_buf *);
    /* Hands a copy of a value to whoever iterates over the job; in order, and before the job is done. Values that nobody has taken
       wait in a queue of limited length, and count against the limits of memory: HL_ENOMEM at a limit, and the value is not in the
       queue. With the flag HL_EMIT_WAITS, emit() waits instead until values are taken, or gives HL_ECANCELED or HL_ETIMEDOUT when
       the job is to stop. If nobody can take the values, they are dropped. */
    int32_t (*emit)(hl_ctx *, const hl_val *);
    /* Channels copy what is pushed; what is popped stays valid until the call ends. */
    int32_t (*chan_push)(hl_ctx *, uint64_t chan, const hl_val *);
    int32_t (*chan_pop)(hl_ctx *, uint64_t chan, hl_val *);
    /* The job's number, as in error messages and in the names of its keys. */
    uint64_t (*job_id)(const hl_ctx *);
    /*
     * Completion tokens, for a kernel with the flag HL_ASYNC that hands its work to a library with threads of its own. No
     * worker waits for it.
     *
     * defer() makes the token of the call, once; 0 if there is no memory or no thread, or the kernel has not the flag. The
     * kernel passes the token on and returns HL_PENDING. Then complete() ends the call, from any thread, also before the kernel
     * has returned: code and *out (NULL is HL_NONE) are what a kernel that does not wait returns. The first complete() counts; it
     * returns HL_OK, and every later one HL_ECLOSED. If the kernel returns anything else, the call ends with that, and the
     * token no longer counts.
     *
     * If the job is cancelled, or its deadline passes, after the kernel has returned HL_PENDING or before, stop(data, code) is
     * called with the reason, at most once: complete() should follow soon, with any code. stop() must not block; it may call
     * complete(). It may still run in one thread while another completes the call. drop(data) is called once, when the call
     * has ended and stop() does not run and never will. Both are called by any thread, without a lock of the host, stop() never
     * with Python's lock held. Either may be NULL. If defer() fails, neither is called.
     */
    uint64_t (*defer)(hl_ctx *, void *data, void (*stop)(void *data, int32_t code), void (*drop)(void *data));
    int32_t (*complete)(uint64_t token, int32_t code, const hl_val *out);
} hl_host;

/*
 * A kernel. *out is HL_NONE at first. It must return, must not throw or longjmp out, must not call Python, must not use out
 * after it has returned, nor ctx, args or memory of the host after the call has ended.
 */
typedef int32_t (*hl_fn)(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user);

typedef struct hl_kernel {
    uint32_t size;
    uint32_t flags;   /* of a kernel; a host ignores those that it does not know */
    const char *name; /* "zlib.crc" */
    const char *sig;  /* "i64(bytes data, i64 start = 0)", or NULL: anything goes and the kernel checks */
    const char *doc;  /* or NULL */
    hl_fn fn;
    void *user;           /* passed to fn */
    void (*drop)(void *); /* called with user when every kernel made of this entry is gone: only for entries in capsules; or NULL */
} hl_kernel;

/* size, magic and abi have their places in every ABI. */
typedef struct hl_module {
    uint32_t size;
    uint32_t magic;
    uint32_t abi;
    uint32_t n; /* number of kernels; kernels[0].size leads from one to the next */
    const char *name;
    const hl_kernel *kernels;
} hl_module;

#define HL_MODULE_INIT(name_, kernels_) \
    { sizeof(hl_module), HL_MAGIC, HL_ABI, sizeof(kernels_) / sizeof((kernels_)[0]), (name_), (kernels_) }

#if defined(__GNUC__) || defined(__clang__)
#define HL_EXPORT __attribute__((visibility("default")))
#else
#define HL_EXPORT
#endif

/* What a library exports: the module, which lives as long as the process, or NULL if it cannot serve a host of that ABI. */
HL_EXPORT const hl_module *hybridloop_module(uint32_t host_abi);

#ifdef __cplusplus
}
#endif

#endif
