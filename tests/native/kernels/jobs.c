/* Kernels that do what the tests of jobs need: some behave, some do not. */
#define _POSIX_C_SOURCE 200809L
#include "hybridloop.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define KERNEL(name) \
    static int32_t name(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user)
#define UNUSED (void)host, (void)ctx, (void)args, (void)n, (void)out, (void)user

static _Atomic long long runs;
static _Atomic int gate;

static void nap(void) {
    struct timespec ms = {0, 1000000};
    nanosleep(&ms, NULL);
}

static int64_t now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/* Counts how often it has run. */
KERNEL(count) {
    UNUSED;
    out->kind = HL_I64;
    out->u.i = ++runs;
    return HL_OK;
}

/* Adds one to each byte of its argument, after the gate has opened. */
KERNEL(increment) {
    UNUSED;
    unsigned char *data = (unsigned char *)args[0].u.b.data;
    while (!gate && !host->cancelled(ctx))
        nap();
    for (size_t i = 0; i < args[0].u.b.len; i++)
        data[i]++;
    return host->cancelled(ctx);
}

/* Uses its arguments until it is cancelled. */
KERNEL(hold) {
    UNUSED;
    int32_t code;
    while (!(code = host->cancelled(ctx)))
        nap();
    return code;
}

/* Opens the gate, or closes it. */
KERNEL(set_gate) {
    UNUSED;
    gate = (int)args[0].u.i;
    return HL_OK;
}

/* Emits 0 … count-1 and says how far it is, then fails if asked to. */
KERNEL(emit) {
    UNUSED;
    for (int64_t i = 0; i < args[0].u.i; i++) {
        hl_val item = {HL_I64, 0, {i}};
        int32_t code = host->emit(ctx, &item);
        if (code || (code = host->cancelled(ctx)))
            return code;
        host->progress(ctx, (uint64_t)i + 1, (uint64_t)args[0].u.i);
    }
    return (int32_t)args[1].u.i;
}

/* Emits blocks of so many bytes. */
KERNEL(emit_blocks) {
    UNUSED;
    static const char zeroes[1 << 16];
    hl_val item;
    memset(&item, 0, sizeof item);
    item.kind = HL_BUF;
    item.u.b.data = zeroes;
    item.u.b.len = (size_t)args[1].u.i;
    item.u.b.ndim = 1;
    for (int64_t i = 0; i < args[0].u.i; i++) {
        int32_t code = host->emit(ctx, &item);
        if (code)
            return code;
    }
    return HL_OK;
}

/* Pushes 0 … count-1 to a channel. */
KERNEL(push) {
    UNUSED;
    for (int64_t i = 0; i < args[1].u.i; i++) {
        hl_val value = {HL_I64, 0, {i}};
        int32_t code = host->chan_push(ctx, args[0].u.u, &value);
        if (code)
            return code;
    }
    return HL_OK;
}

/* Asks for memory of one byte so many times, or for a key of the bus. */
KERNEL(ask) {
    UNUSED;
    const hl_buf key = args[1].u.b;
    for (int64_t i = 0; i < args[0].u.i; i++) {
        hl_buf found;
        int32_t code = key.len ? host->bus_get(ctx, key.data, key.len, &found) : HL_OK;
        if (code || (!key.len && !host->alloc(ctx, 1, 1)))
            return code ? code : HL_ENOMEM;
    }
    return HL_OK;
}

/* Ignores that it was cancelled: only the gate ends it. */
KERNEL(stubborn) {
    UNUSED;
    while (!gate)
        nap();
    out->kind = HL_I64;
    out->u.i = ((const unsigned char *)args[0].u.b.data)[0];
    return HL_OK;
}

/* Returns a value of any kind, with whatever is in the rest of it. */
KERNEL(garbage) {
    UNUSED;
    memset(out, 0, sizeof *out);
    out->kind = (uint32_t)args[0].u.i;
    out->u.b.data = (const void *)(size_t)64;
    out->u.b.len = (size_t)args[1].u.i;
    out->u.b.ndim = (int32_t)args[2].u.i;
    return HL_OK;
}

/* Fails with a code and words. */
KERNEL(fails) {
    UNUSED;
    return host->fail(ctx, (int32_t)args[0].u.i, "on purpose", 10);
}

/* Takes memory and gives it back as the result. */
KERNEL(memory) {
    UNUSED;
    size_t len = (size_t)args[0].u.i;
    char *data = host->alloc(ctx, len, 64);
    if (!data)
        return HL_ENOMEM;
    memset(data, 'm', len);
    out->kind = HL_BUF;
    out->u.b.data = data;
    out->u.b.len = len;
    out->u.b.ndim = 1;
    return HL_OK;
}

/* Counts its steps in the first number, until the second is set or so many milliseconds are over. */
KERNEL(heartbeat) {
    UNUSED;
    volatile int64_t *beats = (volatile int64_t *)args[0].u.b.data;
    int64_t begin = now();
    while (!beats[1] && now() - begin < args[1].u.i * 1000000) {
        nap();
        beats[0]++;
    }
    return HL_OK;
}

/* Gives its argument back. */
KERNEL(same) {
    UNUSED;
    *out = args[0];
    return HL_OK;
}

/* The same, copied. */
KERNEL(copy) {
    UNUSED;
    *out = args[0];
    out->u.b.flags = HL_COPY;
    return HL_OK;
}

/* What kind its only argument is of: for kernels without a signature. */
KERNEL(kind) {
    UNUSED;
    out->kind = HL_STR;
    const char *name = "none";
    static const char *NAMES[] = {"none", "bool", "i64", "u64", "f64", "str", "buf", "key", "chan"};
    static const uint32_t KINDS[] = {HL_NONE, HL_BOOL, HL_I64, HL_U64, HL_F64, HL_STR, HL_BUF, HL_KEY, HL_CHAN};
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (n == 1 && args[0].kind == KINDS[i])
            name = NAMES[i];
    out->u.b.data = name;
    out->u.b.len = strlen(name);
    out->u.b.ndim = 1;
    out->u.b.flags = HL_COPY;
    return HL_OK;
}

/* The bits of its argument. */
KERNEL(bits) {
    UNUSED;
    out->kind = HL_U64;
    out->u.u = args[0].u.u;
    return HL_OK;
}

/* Kernels for a parameter of that type: its bits and its kind, and its bits with a default. */
#define TYPE(type, value) \
    {sizeof(hl_kernel), 0, "jobs.bits." #type, "u64(" #type " x)", NULL, bits, NULL, NULL}, \
    {sizeof(hl_kernel), 0, "jobs.kind." #type, "str(" #type " x)", NULL, kind, NULL, NULL}, \
    {sizeof(hl_kernel), 0, "jobs.default." #type, "u64(" #type " x = " #value ")", NULL, bits, NULL, NULL}

#define ENTRY(name, sig) {sizeof(hl_kernel), 0, "jobs." #name, sig, NULL, name, NULL, NULL}

static const hl_kernel KERNELS[] = {
    ENTRY(count, "i64()"),
    ENTRY(increment, "none(out bytes data)"),
    ENTRY(hold, "none(out buf target, buf? other = None)"),
    ENTRY(set_gate, "none(i64 open)"),
    ENTRY(emit, "none(i64 count, i64 code = 0)"),
    ENTRY(push, "none(chan channel, i64 count)"),
    {sizeof(hl_kernel), HL_EMIT_WAITS, "jobs.emit_waits", "none(i64 count, i64 code = 0)", NULL, emit, NULL, NULL},
    {sizeof(hl_kernel), HL_EMIT_WAITS, "jobs.emit_blocks", "none(i64 count, i64 len)", NULL, emit_blocks, NULL, NULL},
    ENTRY(ask, "none(i64 count, str key = \"\")"),
    ENTRY(stubborn, "i64(bytes data)"),
    ENTRY(garbage, "any(i64 kind, i64 len = 0, i64 ndim = 1)"),
    ENTRY(fails, "none(i64 code)"),
    ENTRY(memory, "buf(i64 len)"),
    ENTRY(same, "buf(buf data)"),
    ENTRY(copy, "buf(buf data)"),
    ENTRY(heartbeat, "none(out [i64] beats, i64 milliseconds)"),
    ENTRY(kind, NULL),
    TYPE(bool, true),
    TYPE(i8, -128),
    TYPE(i16, -32768),
    TYPE(i32, true),
    TYPE(i64, -9223372036854775808),
    TYPE(u8, 255),
    TYPE(u16, true),
    TYPE(u32, 4294967295),
    TYPE(u64, 18446744073709551615),
    TYPE(f32, 3),
    TYPE(f64, 3),
    {sizeof(hl_kernel), 0, "jobs.kind.key", "str(key x = \"a\")", NULL, kind, NULL, NULL},
};
static const hl_module MODULE = HL_MODULE_INIT("jobs", KERNELS);

HL_EXPORT const hl_module *hybridloop_module(uint32_t host_abi) { return host_abi == HL_ABI ? &MODULE : NULL; }
