/* Kernels as a user writes them, against the header alone. */
#include "hybridloop.h"

#include <string.h>

/* ---- plain functions: registered by address ---- */

HL_EXPORT double plain_total(const double *values, size_t n, double by) {
    double total = 0;
    for (size_t i = 0; i < n; i++)
        total += values[i];
    return total * by;
}

HL_EXPORT void plain_fill(int32_t *target, size_t n, int32_t with) {
    for (size_t i = 0; i < n; i++)
        target[i] = with;
}

/* As SciPy calls functions: data of its own comes last. */
HL_EXPORT double plain_scaled(double x, void *data) { return x * *(const double *)data; }

/* ---- a module ---- */

static int32_t twice(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    (void)host, (void)ctx, (void)n, (void)user;
    out->kind = HL_I64;
    out->u.i = 2 * args[0].u.i;
    return HL_OK;
}

/* The values shifted by one, as doubles of two rows. */
static int32_t rows(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    static int64_t shape[2] = {2, 0};
    const double *values = args[0].u.b.data;
    size_t count = args[0].u.b.len / sizeof *values;
    double *result = host->alloc(ctx, count * sizeof *values, sizeof *values);
    (void)n, (void)user;
    if (!result)
        return HL_ENOMEM;
    if (count % 2)
        return host->fail(ctx, HL_EINVAL, "an even number of values is needed", 34);
    for (size_t i = 0; i < count; i++)
        result[i] = values[i] + 1;
    shape[1] = (int64_t)count / 2;
    out->kind = HL_BUF;
    out->u.b.data = result;
    out->u.b.len = count * sizeof *values;
    out->u.b.fmt = "d";
    out->u.b.itemsize = sizeof *values;
    out->u.b.ndim = 2;
    out->u.b.shape = shape;
    return HL_OK;
}

static const hl_kernel KERNELS[] = {
    {sizeof(hl_kernel), 0, MODULE ".twice", "i64(i64 value)", "Twice the value.", twice, NULL, NULL},
    {sizeof(hl_kernel), 0, MODULE ".rows", "buf([f64] values)", NULL, rows, NULL, NULL},
#ifdef BAD_SIGNATURE
    {sizeof(hl_kernel), 0, MODULE ".bad", "i64(string)", NULL, twice, NULL, NULL},
#endif
#ifdef SAME_NAME
    {sizeof(hl_kernel), 0, MODULE ".twice", "i64(i64 value)", NULL, twice, NULL, NULL},
#endif
};
#ifdef NULL_TABLE
static const hl_module THIS = {sizeof(hl_module), HL_MAGIC, HL_ABI, NULL_TABLE, MODULE, NULL};
const void *const unused_table = KERNELS;
#elif defined OTHER_ABI
static const hl_module THIS = {sizeof(hl_module), HL_MAGIC, 99, 2, MODULE, KERNELS};
#else
static const hl_module THIS = HL_MODULE_INIT(MODULE, KERNELS);
#endif
#ifdef NO_MODULE
#define hybridloop_module another_name
HL_EXPORT const hl_module *another_name(uint32_t host_abi);
#endif
#ifdef SERVES_NOBODY
#define SERVES(abi) ((abi) == 99)
#else
#define SERVES(abi) ((abi) != 99)
#endif
HL_EXPORT const hl_module *hybridloop_module(uint32_t host_abi) { return SERVES(host_abi) ? &THIS : NULL; }

/* ---- entries for capsules ---- */

/* Adds what it was made with. */
static int32_t add(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    (void)host, (void)ctx, (void)n;
    out->kind = HL_I64;
    out->u.i = args[0].u.i + *(int64_t *)user;
    return HL_OK;
}

static void gone(void *user) { *(int64_t *)user = -1; }

HL_EXPORT int64_t data = 5;
HL_EXPORT hl_kernel entry = {sizeof(hl_kernel), 0, MODULE ".add", "i64(i64 value)", "Adds.", add, &data, gone};
HL_EXPORT hl_kernel other = {sizeof(hl_kernel), 0, MODULE ".other", NULL, NULL, twice, NULL, NULL};
HL_EXPORT hl_kernel small = {8, 0, MODULE ".small", NULL, NULL, twice, NULL, NULL};
HL_EXPORT hl_kernel empty = {sizeof(hl_kernel), 0, MODULE ".empty", NULL, NULL, NULL, NULL, NULL};
