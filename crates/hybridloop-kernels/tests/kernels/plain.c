/* A library of kernels as a user writes it, against the header alone. */
#include "hybridloop.h"

#include <stdbool.h>
#include <string.h>

/* Sums 64-bit integers, emits each, and tells how far it is. */
static int32_t sum(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    const int64_t *values = args[0].u.b.data;
    size_t count = args[0].u.b.len / sizeof *values;
    int64_t total = 0;
    (void)n;
    (void)user;
    for (size_t i = 0; i < count; i++) {
        hl_val item = {HL_I64, 0, {values[i]}};
        int32_t code = host->emit(ctx, &item);
        if (code)
            return code;
        host->progress(ctx, i + 1, count);
        total += values[i];
    }
    out->kind = HL_I64;
    out->u.i = total;
    return HL_OK;
}

/* Runs until it is told to end. */
static int32_t forever(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    int32_t code;
    (void)args, (void)n, (void)out, (void)user;
    while (!(code = host->cancelled(ctx)))
        ;
    return code;
}

/* Returns what it should not: the kind of the first argument, or memory that is its own. */
static int32_t garbage(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    static char own[4] = "own";
    (void)host, (void)ctx, (void)n, (void)user;
    out->kind = (uint32_t)args[0].u.i;
    out->u.b.data = own;
    out->u.b.len = 3;
    out->u.b.ndim = 1;
    out->u.b.flags = (uint32_t)args[1].u.i;
    return HL_OK;
}

static int32_t fails(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    (void)n, (void)out, (void)user;
    return host->fail(ctx, (int32_t)args[0].u.i, "on purpose", 10);
}

/* Doubles what is on the bus under a key of the job, in memory of the host. */
static int32_t memory(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    const hl_buf *data = &args[0].u.b;
    void *copy;
    hl_buf back;
    int32_t code = host->bus_open(ctx, "half", 4, data->len, HL_BUS_JOB, &copy);
    (void)n, (void)user;
    if (code)
        return code;
    memcpy(copy, data->data, data->len);
    if ((code = host->bus_seal(ctx, copy, data->len)))
        return code;
    if ((code = host->bus_push(ctx, "shared", 6, data->data, data->len, 0)))
        return code;
    if ((code = host->bus_pop(ctx, "shared", 6, &back)))
        return code;
    char *twice = host->alloc(ctx, data->len, 1);
    if (!twice || !(twice = host->resize(ctx, twice, 2 * data->len)))
        return HL_ENOMEM;
    memcpy(twice, back.data, data->len);
    memcpy(twice + data->len, back.data, data->len);
    out->kind = HL_BUF;
    out->u.b.data = twice;
    out->u.b.len = 2 * data->len;
    out->u.b.ndim = 1;
    return HL_OK;
}

static const hl_kernel KERNELS[] = {
    {sizeof(hl_kernel), 0, "c.sum", "i64([i64] values)", "The sum.", sum, NULL, NULL},
    {sizeof(hl_kernel), 0, "c.forever", "none()", NULL, forever, NULL, NULL},
    {sizeof(hl_kernel), 0, "c.garbage", "any(i64 kind, i64 flags = 0)", NULL, garbage, NULL, NULL},
    {sizeof(hl_kernel), 0, "c.fails", "none(i64 code)", NULL, fails, NULL, NULL},
    {sizeof(hl_kernel), 0, "c.memory", "buf(bytes data)", NULL, memory, NULL, NULL},
};
static const hl_module MODULE = HL_MODULE_INIT("c", KERNELS);

#ifndef WRONG_ABI
HL_EXPORT const hl_module *hybridloop_module(uint32_t host_abi) { return host_abi == HL_ABI ? &MODULE : NULL; }
#else
static const hl_module WRONG = {sizeof(hl_module), HL_MAGIC, 99, 1, "c", KERNELS};
HL_EXPORT const hl_module *hybridloop_module(uint32_t host_abi) { return host_abi == 99 ? &MODULE : &WRONG; }
#endif

HL_EXPORT double plain_scale(const double *values, size_t n, double by, float also, int8_t minus) {
    double total = 0;
    for (size_t i = 0; i < n; i++)
        total += values[i];
    return total * by * also - minus;
}
HL_EXPORT int8_t plain_small(uint16_t a, int32_t b) { return (int8_t)(b - a); }
HL_EXPORT void plain_fill(int32_t *target, size_t n, int32_t with) {
    for (size_t i = 0; i < n; i++)
        target[i] = with;
}

/* More parameters than registers, of every size: what is left goes on the stack, in order. */
HL_EXPORT double plain_many(int8_t p0, float p1, uint16_t p2, double p3, int64_t p4, float p5,
                            int32_t p6, double p7, uint8_t p8, float p9, int16_t p10, double p11,
                            uint32_t p12, float p13, int8_t p14, double p15, int16_t p16, float p17,
                            uint8_t p18, double p19, int64_t p20, float p21, uint16_t p22, double
                            p23) {
    return 1 * (double)p0 + 2 * (double)p1 + 3 * (double)p2 + 4 * (double)p3 + 5 * (double)p4 +
           6 * (double)p5 + 7 * (double)p6 + 8 * (double)p7 + 9 * (double)p8 + 10 * (double)p9 +
           11 * (double)p10 + 12 * (double)p11 + 13 * (double)p12 + 14 * (double)p13 + 15 *
           (double)p14 + 16 * (double)p15 + 17 * (double)p16 + 18 * (double)p17 + 19 *
           (double)p18 + 20 * (double)p19 + 21 * (double)p20 + 22 * (double)p21 + 23 *
           (double)p22 + 24 * (double)p23;
}
HL_EXPORT float plain_float(float a) { return a / 2; }
HL_EXPORT bool plain_is_odd(uint64_t a) { return a % 2; }
HL_EXPORT uint64_t plain_same(uint64_t a) { return a; }
HL_EXPORT int64_t plain_negative(int64_t a) { return -a; }
