/*
 * Two kernels for series of numbers, in C against hybridloop's header and nothing else:
 *
 *     cc -std=c99 -O2 -fPIC -shared -I../../../include -o libsignal.so signal.c
 */
#include "hybridloop.h"

/* How many values to work on between two looks at whether the job was cancelled. */
#define CHUNK 16384

/* Tells how far it is; gives a code if the kernel has to end. */
static int32_t check(const hl_host *host, hl_ctx *ctx, size_t done, size_t total) {
    if (done % CHUNK)
        return HL_OK;
    host->progress(ctx, done, total);
    return host->cancelled(ctx);
}

/* smooth(values, smoothed, window): writes the average of each value and the window - 1 before it. */
static int32_t smooth(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    const double *values = args[0].u.b.data;
    double *smoothed = (double *)args[1].u.b.data;
    size_t count = args[0].u.b.len / sizeof *values;
    size_t window = (size_t)args[2].u.i;
    double sum = 0;
    (void)n, (void)out, (void)user;

    if (args[1].u.b.len != args[0].u.b.len)
        return host->fail(ctx, HL_EINVAL, "values and smoothed differ in length", 36);
    if (window == 0)
        return host->fail(ctx, HL_EINVAL, "the window is empty", 19);
    for (size_t i = 0; i < count; i++) {
        int32_t code = check(host, ctx, i, count);
        if (code)
            return code;
        sum += values[i];
        if (i >= window)
            sum -= values[i - window];
        smoothed[i] = sum / (double)(i + 1 < window ? i + 1 : window);
    }
    return HL_OK;
}

/* peaks(values, threshold): where values are greater than the threshold and than both neighbours, as an array of i64. */
static int32_t peaks(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    const double *values = args[0].u.b.data;
    size_t count = args[0].u.b.len / sizeof *values;
    double threshold = args[1].u.f;
    size_t found = 0, room = 64;
    int64_t *places = host->alloc(ctx, room * sizeof *places, sizeof *places);
    (void)n, (void)user;

    if (!places)
        return HL_ENOMEM;
    for (size_t i = 1; i + 1 < count; i++) {
        int32_t code = check(host, ctx, i, count);
        if (code)
            return code;
        if (values[i] <= threshold || values[i] <= values[i - 1] || values[i] <= values[i + 1])
            continue;
        if (found == room) {
            room *= 2;
            places = host->resize(ctx, places, room * sizeof *places);
            if (!places)
                return HL_ENOMEM;
        }
        places[found++] = (int64_t)i;
    }
    /* Memory of the host becomes the result as it is, without a copy. */
    out->kind = HL_BUF;
    out->u.b.data = places;
    out->u.b.len = found * sizeof *places;
    out->u.b.itemsize = sizeof *places;
    out->u.b.fmt = "q";
    out->u.b.ndim = 1;
    return HL_OK;
}

static const hl_kernel KERNELS[] = {
    {sizeof(hl_kernel), 0, "signal.smooth", "none([f64] values, out [f64] smoothed, u32 window = 5)",
     "Writes the moving average over `window` values.", smooth, NULL, NULL},
    {sizeof(hl_kernel), 0, "signal.peaks", "buf([f64] values, f64 threshold)",
     "The places of local maxima above `threshold`, as i64.", peaks, NULL, NULL},
};
static const hl_module MODULE = HL_MODULE_INIT("signal", KERNELS);

HL_EXPORT const hl_module *hybridloop_module(uint32_t host_abi) { return host_abi == HL_ABI ? &MODULE : NULL; }
