/* A library with a thread of its own, and kernels that leave their end to it. */
#define _POSIX_C_SOURCE 200809L
#include "hybridloop.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* What the library does with a call: at once, when it is released, or when it is released or stopped. */
enum { ECHO, KEEP, KEEP_OR_STOP };

struct call {
    const hl_host *host;
    hl_ctx *ctx;
    const hl_val *args;
    uint64_t token;
    int what;
    int code; /* for stop */
    struct call *next;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct call *calls;
static int has_thread;
static _Atomic long long live, stops;

/* Completes a call, which no list has any more. Its memory goes with drop(). */
static void finish(struct call *call) {
    const hl_host *host = call->host;
    hl_ctx *ctx = call->ctx;
    const hl_val *arg = &call->args[0];
    hl_val out = *arg;
    if (call->code) {
        host->complete(call->token, call->code, NULL);
        return;
    }
    if (arg->kind == HL_I64 && arg->u.i < 0) {
        host->complete(call->token, host->fail(ctx, HL_EINVAL, "negative", 8), NULL);
        return;
    }
    if (arg->kind == HL_BUF && arg->u.b.flags & HL_WRITABLE) {
        /* Fills the buffer and tells how far it is. */
        unsigned char *data = (unsigned char *)arg->u.b.data;
        for (size_t i = 0; i < arg->u.b.len; i++) {
            hl_val item = {HL_U64, 0, {(int64_t)i}};
            data[i] = (unsigned char)i;
            host->emit(ctx, &item);
            host->progress(ctx, i + 1, arg->u.b.len);
        }
        out = (hl_val){HL_U64, 0, {(int64_t)arg->u.b.len}};
    } else if (arg->kind == HL_BUF) {
        void *data = host->alloc(ctx, arg->u.b.len, 8);
        if (!data) {
            host->complete(call->token, HL_ENOMEM, NULL);
            return;
        }
        memcpy(data, arg->u.b.data, arg->u.b.len);
        out.u.b.data = data;
    }
    host->complete(call->token, HL_OK, &out);
}

static void *work(void *unused) {
    (void)unused;
    pthread_mutex_lock(&mutex);
    for (;;) {
        struct call **at = &calls, *call;
        while ((call = *at) != NULL && call->what != ECHO)
            at = &call->next;
        if (call == NULL) {
            pthread_cond_wait(&changed, &mutex);
            continue;
        }
        *at = call->next;
        pthread_mutex_unlock(&mutex);
        finish(call);
        pthread_mutex_lock(&mutex);
    }
    return NULL;
}

static void stop(void *data, int32_t code) {
    struct call *call = data;
    stops++;
    pthread_mutex_lock(&mutex);
    if (call->what == KEEP_OR_STOP) {
        call->what = ECHO;
        call->code = code;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&mutex);
}

static void drop(void *data) {
    live--;
    free(data);
}

static int32_t begin(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    struct call *call = calloc(1, sizeof *call);
    pthread_t thread;
    (void)n, (void)out;
    if (!call)
        return HL_ENOMEM;
    call->host = host;
    call->ctx = ctx;
    call->args = args;
    call->what = (int)(size_t)user;
    live++;
    call->token = host->defer(ctx, call, stop, drop);
    if (!call->token) {
        drop(call);
        return HL_ENOMEM;
    }
    pthread_mutex_lock(&mutex);
    if (!has_thread) {
        int status = pthread_create(&thread, NULL, work, NULL);
        if (status) {
            pthread_mutex_unlock(&mutex);
            return host->fail(ctx, HL_EUNKNOWN, "no thread", 9);
        }
        pthread_detach(thread);
        has_thread = 1;
    }
    call->next = calls;
    calls = call;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    return HL_PENDING;
}

#define KERNEL(name) \
    static int32_t name(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user)
#define UNUSED (void)host, (void)ctx, (void)args, (void)n, (void)out, (void)user

/* Lets the library complete all that it keeps; returns how many. */
KERNEL(release) {
    UNUSED;
    out->kind = HL_I64;
    pthread_mutex_lock(&mutex);
    for (struct call *call = calls; call; call = call->next) {
        call->what = ECHO;
        out->u.i++;
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    return HL_OK;
}

static void nap(void) {
    struct timespec ms = {0, 1000000};
    nanosleep(&ms, NULL);
}

/* What is kept is completed when the interpreter is gone, by the thread of the library. */
static void complete_at_exit(void) {
    static const char text[] = "completed\n";
    pthread_mutex_lock(&mutex);
    for (struct call *call = calls; call; call = call->next)
        call->what = ECHO;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    while (live)
        nap();
    if (write(1, text, sizeof text - 1) < 0)
        _exit(1);
}

KERNEL(complete_later) {
    UNUSED;
    return atexit(complete_at_exit) ? HL_ENOMEM : HL_OK;
}

/* Calls that were not dropped, and calls of stop(). */
KERNEL(count) {
    UNUSED;
    out->kind = HL_I64;
    out->u.i = args[0].u.i ? stops : live;
    return HL_OK;
}

#define ENTRY(name, flags, sig, fn, user) {sizeof(hl_kernel), flags, "tokens." name, sig, NULL, fn, (void *)(size_t)(user), NULL}
static const hl_kernel KERNELS[] = {
    ENTRY("echo", HL_ASYNC, "any(any value)", begin, ECHO),
    ENTRY("keep", HL_ASYNC, "any(any value)", begin, KEEP),
    ENTRY("wait", HL_ASYNC, "any(any value)", begin, KEEP_OR_STOP),
    ENTRY("fill", HL_ASYNC, "u64(out bytes data)", begin, ECHO),
    ENTRY("fill_later", HL_ASYNC, "u64(out bytes data)", begin, KEEP),
    ENTRY("release", 0, "i64()", release, 0),
    ENTRY("complete_later", 0, "none()", complete_later, 0),
    ENTRY("count", 0, "i64(bool stops = false)", count, 0),
};
static const hl_module MODULE = HL_MODULE_INIT("tokens", KERNELS);
HL_EXPORT const hl_module *hybridloop_module(uint32_t host_abi) { return host_abi == HL_ABI ? &MODULE : NULL; }

/* For the test of capsules: an entry of its own, whose user data counts how often it was dropped. */
HL_EXPORT _Atomic int tokens_dropped;

static void drop_entry(void *user) {
    (void)user;
    tokens_dropped++;
}

HL_EXPORT hl_kernel tokens_entry = {sizeof(hl_kernel), HL_ASYNC, "tokens.capsule", "any(any value)", NULL, begin,
                                    (void *)(size_t)KEEP, drop_entry};
