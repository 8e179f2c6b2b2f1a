/* A library that keeps calls until the test completes them. Each test has places of its own. */
#define _POSIX_C_SOURCE 200809L
#include "hybridloop.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define PLACES 64

/* What stop() does. */
enum { NOTES, COMPLETES, BLOCKS };

static struct place {
    const hl_host *host;
    hl_ctx *ctx;
    const hl_val *args;
    int64_t mode;
    _Atomic uint64_t token;
    atomic_int stops, drops, code, blocks, order;
} places[PLACES];

static void stop(void *data, int32_t code) {
    struct place *place = data;
    place->code = code;
    place->stops++;
    if (place->mode == COMPLETES)
        place->host->complete(place->token, code, NULL);
    while (place->mode == BLOCKS && place->blocks)
        ;
    /* The data is still there. */
    place->order = place->drops;
}

static void drop(void *data) { ((struct place *)data)->drops++; }

static uint64_t take(const hl_host *host, hl_ctx *ctx, const hl_val *args) {
    struct place *place = &places[args[0].u.i];
    uint64_t token;
    if (!HL_HAS(host, hl_host, complete))
        return 0;
    place->host = host;
    place->ctx = ctx;
    place->args = args;
    place->mode = args[1].u.i;
    place->blocks = 1;
    token = host->defer(ctx, place, place->mode < 0 ? NULL : stop, drop);
    place->token = token;
    return token;
}

#define KERNEL(name) \
    static int32_t name(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user)
#define UNUSED (void)host, (void)ctx, (void)args, (void)n, (void)out, (void)user

/* Leaves its end to the test. */
KERNEL(keep) {
    UNUSED;
    return take(host, ctx, args) ? HL_PENDING : HL_ENOMEM;
}

/* The same, but it waits until stop() may return, without a look at whether it was cancelled. */
KERNEL(keep_late) {
    UNUSED;
    if (!take(host, ctx, args))
        return HL_ENOMEM;
    while (places[args[0].u.i].blocks)
        ;
    return HL_PENDING;
}

static void *complete_now(void *data) {
    struct place *place = data;
    hl_val value = {HL_I64, 0, {5}};
    place->order = place->host->complete(place->token, HL_OK, &value);
    return NULL;
}

/* Completes its token before it returns, in this thread or another, and returns a code. */
KERNEL(at_once) {
    UNUSED;
    struct place *place = &places[args[0].u.i];
    pthread_t thread;
    if (!take(host, ctx, args))
        return HL_ENOMEM;
    if (args[2].u.i == 0)
        complete_now(place);
    else if (pthread_create(&thread, NULL, complete_now, place) || pthread_join(thread, NULL))
        return HL_EUNKNOWN;
    return (int32_t)args[3].u.i;
}

/* Takes a token and returns a code all the same. */
KERNEL(fails) {
    UNUSED;
    if (!take(host, ctx, args))
        return HL_ENOMEM;
    return host->fail(ctx, (int32_t)args[2].u.i, "after all", 9);
}

/* Returns HL_PENDING without a token, or asks for two. */
KERNEL(wrong) {
    UNUSED;
    if (args[0].u.i < 0)
        return HL_PENDING;
    take(host, ctx, args);
    out->kind = HL_BOOL;
    out->u.i = host->defer(ctx, NULL, NULL, NULL) == 0;
    return HL_OK;
}

/* Writes a number behind the first of its buffer, emits and returns memory of the host. */
HL_EXPORT int32_t tokens_finish(int32_t at) {
    struct place *place = &places[at];
    const hl_host *host = place->host;
    int64_t *data = (int64_t *)place->args[2].u.b.data;
    int64_t *memory = host->alloc(place->ctx, 16, 8);
    hl_val item = {HL_I64, 0, {3}}, value;
    memset(&value, 0, sizeof value);
    value.kind = HL_BUF;
    data[1] = data[0] + 1;
    memory[1] = data[1];
    host->emit(place->ctx, &item);
    host->progress(place->ctx, 1, 2);
    value.u.b.data = memory;
    value.u.b.len = 16;
    value.u.b.ndim = 1;
    return host->complete(place->token, HL_OK, &value);
}

HL_EXPORT int32_t tokens_complete(int32_t at, int32_t code) {
    hl_val value = {HL_I64, 0, {7}};
    return places[at].host->complete(places[at].token, code, &value);
}

HL_EXPORT int32_t tokens_fail(int32_t at) {
    const hl_host *host = places[at].host;
    return host->complete(places[at].token, host->fail(places[at].ctx, HL_EINVAL, "later", 5), NULL);
}

/* 0: it has a token; 1: calls of stop(); 2: of drop(); 3: the code; 4: see stop() and complete_now(). */
HL_EXPORT int32_t tokens_state(int32_t at, int32_t which) {
    struct place *place = &places[at];
    switch (which) {
    case 0: return place->token != 0;
    case 1: return place->stops;
    case 2: return place->drops;
    case 3: return place->code;
    default: return place->order;
    }
}

HL_EXPORT int32_t tokens_unblock(int32_t at, int32_t unused) {
    places[at].blocks = 0;
    return unused;
}

#define ENTRY(name, flags, sig) {sizeof(hl_kernel), flags, "tokens." #name, sig, NULL, name, NULL, NULL}
static const hl_kernel KERNELS[] = {
    ENTRY(keep, HL_ASYNC, "any(i64 at, i64 mode = 0, out [i64]? data = None)"),
    ENTRY(keep_late, HL_ASYNC, "any(i64 at, i64 mode = 0)"),
    ENTRY(at_once, HL_ASYNC, "any(i64 at, i64 mode, i64 thread, i64 code)"),
    ENTRY(fails, HL_ASYNC, "any(i64 at, i64 mode, i64 code)"),
    ENTRY(wrong, HL_ASYNC, "any(i64 at, i64 mode = 0)"),
    {sizeof(hl_kernel), 0, "tokens.no_flag", "any(i64 at, i64 mode = 0)", NULL, keep, NULL, NULL},
};
static const hl_module MODULE = HL_MODULE_INIT("tokens", KERNELS);
HL_EXPORT const hl_module *hybridloop_module(uint32_t host_abi) { return host_abi == HL_ABI ? &MODULE : NULL; }
