/* Uses everything that interface 1 has. Frozen: see README.md. */
#include "hybridloop.h"

#include <string.h>

/* The first code that is not 0. */
#define TRY(call) \
    do { \
        int32_t code_ = (call); \
        if (code_) \
            return code_; \
    } while (0)

/* Takes one of each kind, checks the second argument's elements, and gives "<text>:<job>" by way of everything but channels. */
static int32_t all(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    const hl_buf *text = &args[0].u.b, *values = &args[1].u.b, *key = &args[6].u.b;
    hl_buf got;
    hl_val item;
    void *data;
    char *result;
    size_t i, digits = 0;
    uint64_t id = host->job_id(ctx);
    char number[24];

    if (host->size < sizeof *host || host->abi != HL_ABI || !HL_HAS(host, hl_host, job_id))
        return host->fail(ctx, 100, "the host's table", 16);
    if (n != 8 || args[0].kind != HL_STR || args[1].kind != HL_BUF || args[2].kind != HL_I64 || args[3].kind != HL_U64 ||
        args[4].kind != HL_F64 || args[5].kind != HL_BOOL || args[6].kind != HL_KEY || args[7].kind != HL_NONE)
        return host->fail(ctx, 101, "the kinds", 9);
    if (args[2].u.i != -3 || args[3].u.u != UINT64_MAX || args[4].u.f != 0.5 || args[5].u.i != 1)
        return host->fail(ctx, 102, "the numbers", 11);
    if (!(values->flags & HL_CONTIGUOUS) || values->flags & HL_WRITABLE || values->itemsize != 8 || values->len != 16 ||
        strcmp(values->fmt, "d") || ((const double *)values->data)[1] != 2.5)
        return host->fail(ctx, 103, "the buffer", 10);
    if (*(const int *)user != 17)
        return host->fail(ctx, 104, "user", 4);

    TRY(host->cancelled(ctx));
    host->progress(ctx, 1, 2);
    TRY(host->bus_push(ctx, key->data, key->len, "pushed", 6, 0));
    TRY(host->bus_get(ctx, key->data, key->len, &got));
    if (got.len != 6 || memcmp(got.data, "pushed", 6))
        return 105;
    TRY(host->bus_open(ctx, key->data, key->len, 100, 0, &data));
    memcpy(data, text->data, text->len);
    TRY(host->bus_seal(ctx, data, text->len));
    TRY(host->bus_open(ctx, "other", 5, 10, HL_BUS_JOB, &data));
    TRY(host->bus_abort(ctx, data));
    if (host->bus_get(ctx, "other", 5, &got) != HL_ENOTFOUND)
        return 106;
    TRY(host->bus_pop(ctx, key->data, key->len, &got));

    item.kind = HL_BUF;
    item.reserved = 0;
    item.u.b = got;
    TRY(host->emit(ctx, &item));

    host->free(ctx, host->alloc(ctx, 1000, 64));
    if (!(result = host->alloc(ctx, got.len + 1, 1)))
        return HL_ENOMEM;
    memcpy(result, got.data, got.len);
    result[got.len] = ':';
    do {
        number[digits++] = (char)('0' + id % 10);
        id /= 10;
    } while (id);
    if (!(result = host->resize(ctx, result, got.len + 1 + digits)))
        return HL_ENOMEM;
    for (i = 0; i < digits; i++)
        result[got.len + 1 + i] = number[digits - 1 - i];
    host->progress(ctx, 2, 2);
    out->kind = HL_STR;
    out->u.b.data = result;
    out->u.b.len = got.len + 1 + digits;
    return HL_OK;
}

/* Doubles what is in a channel, in place, until it is empty; how many there were. */
static int32_t channel(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    hl_val taken[16];
    size_t count = 0, i;
    int32_t code;
    (void)n, (void)user;
    while (count < 16 && !(code = host->chan_pop(ctx, args[0].u.u, &taken[count])))
        count++;
    if (count < 16 && code != HL_EEMPTY)
        return code;
    for (i = 0; i < count; i++) {
        if (taken[i].kind != HL_I64)
            return HL_ETYPE;
        taken[i].u.i *= 2;
        TRY(host->chan_push(ctx, args[0].u.u, &taken[i]));
    }
    out->kind = HL_U64;
    out->u.u = count;
    return HL_OK;
}

/* Writes to its argument, and returns a constant as an array of two rows. */
static int32_t arrays(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    static const int32_t VALUES[6] = {1, 2, 3, 4, 5, 6};
    static const int64_t SHAPE[2] = {2, 3};
    int32_t *target = (int32_t *)(void *)args[0].u.b.data;
    size_t i;
    (void)host, (void)ctx, (void)n, (void)user;
    if (!(args[0].u.b.flags & HL_WRITABLE))
        return HL_EINVAL;
    for (i = 0; i < args[0].u.b.len / sizeof *target; i++)
        target[i] = (int32_t)i;
    memset(out, 0, sizeof *out);
    out->kind = HL_BUF;
    out->u.b.data = VALUES;
    out->u.b.len = sizeof VALUES;
    out->u.b.flags = HL_COPY;
    out->u.b.itemsize = 4;
    out->u.b.fmt = "i";
    out->u.b.ndim = 2;
    out->u.b.shape = SHAPE;
    return HL_OK;
}

static int user_data = 17;

static const hl_kernel KERNELS[] = {
    {sizeof(hl_kernel), 0, "v1.all", "str(str a, [f64] b, i64 c, u64 d, f64 e, bool f, key g, str? h)", "Everything.", all,
     &user_data, NULL},
    {sizeof(hl_kernel), 0, "v1.channel", "u64(chan c)", NULL, channel, NULL, NULL},
    {sizeof(hl_kernel), 0, "v1.arrays", "buf(out [i32] target)", NULL, arrays, NULL, NULL},
};
static const hl_module MODULE = HL_MODULE_INIT("v1", KERNELS);

HL_EXPORT const hl_module *hybridloop_module(uint32_t host_abi) { return host_abi == HL_ABI ? &MODULE : NULL; }
