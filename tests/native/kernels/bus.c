/* The native side of the memory bus, for tests. */
#define _POSIX_C_SOURCE 200112L
#include "hybridloop.h"

#include <string.h>
#include <time.h>

#define PARAMETERS const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user
#define UNUSED (void)host, (void)ctx, (void)args, (void)n, (void)out, (void)user
#define DATA(i) args[i].u.b.data
#define LEN(i) args[i].u.b.len

static int32_t give(hl_val *out, const hl_buf *found) {
    out->kind = HL_BUF;
    out->u.b = *found;
    return HL_OK;
}

/* Waits until there is something in a channel. */
static int32_t wait_for(const hl_host *host, hl_ctx *ctx, uint64_t channel) {
    hl_val taken;
    int32_t code;
    while ((code = host->chan_pop(ctx, channel, &taken)) == HL_EEMPTY) {
        struct timespec pause = {0, 100000};
        if ((code = host->cancelled(ctx)))
            return code;
        nanosleep(&pause, NULL);
    }
    return code;
}

static int32_t push(PARAMETERS) {
    UNUSED;
    return host->bus_push(ctx, DATA(0), LEN(0), DATA(1), LEN(1), 0);
}

static int32_t get(PARAMETERS) {
    hl_buf found;
    int32_t code = host->bus_get(ctx, DATA(0), LEN(0), &found);
    UNUSED;
    return code ? code : give(out, &found);
}

static int32_t pop(PARAMETERS) {
    hl_buf found;
    int32_t code = host->bus_pop(ctx, DATA(0), LEN(0), &found);
    UNUSED;
    return code ? code : give(out, &found);
}

/* Opens a key, writes a half, pushes to `opened`, waits for `gate`, writes the rest, and seals it or not. */
static int32_t hold(PARAMETERS) {
    hl_val opened = {HL_STR, 0, {0}};
    void *to;
    int32_t code = host->bus_open(ctx, DATA(0), LEN(0), LEN(1), 0, &to);
    UNUSED;
    if (code)
        return code;
    memcpy(to, DATA(1), LEN(1) / 2);
    opened.u.b.data = "opened";
    opened.u.b.len = 6;
    if ((code = host->chan_push(ctx, args[2].u.u, &opened)) || (code = wait_for(host, ctx, args[3].u.u)))
        return code;
    memcpy(to, DATA(1), LEN(1));
    return args[4].u.i ? host->bus_seal(ctx, to, LEN(1)) : host->bus_abort(ctx, to);
}

/* All of so many kernels take the same key at the same time; gives what it got, or nothing. */
static int32_t race(PARAMETERS) {
    static int64_t arrived;
    int64_t all = args[1].u.i, place = __atomic_fetch_add(&arrived, 1, __ATOMIC_ACQ_REL);
    int32_t code;
    hl_buf found;
    UNUSED;
    while (__atomic_load_n(&arrived, __ATOMIC_ACQUIRE) < (place / all + 1) * all)
        if ((code = host->cancelled(ctx)))
            return code;
    code = host->bus_pop(ctx, DATA(0), LEN(0), &found);
    if (code == HL_ENOTFOUND)
        return HL_OK;
    return code ? code : give(out, &found);
}

/* So many keys of the job, each with the data. */
static int32_t own(PARAMETERS) {
    UNUSED;
    for (int64_t i = 0; i < args[0].u.i; i++) {
        int32_t code = host->bus_push(ctx, &i, sizeof i, DATA(1), LEN(1), HL_BUS_JOB);
        if (code)
            return code;
    }
    out->kind = HL_U64;
    out->u.u = host->job_id(ctx);
    return HL_OK;
}

/* ---- a storm: blocks with a checksum, written and read as fast as it goes ---- */

static uint32_t table[256];

static void make_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
        table[i] = c;
    }
}

static uint32_t crc32(const unsigned char *data, size_t len) {
    uint32_t c = 0xffffffffu;
    while (len--)
        c = table[(c ^ *data++) & 255] ^ (c >> 8);
    return ~c;
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#define BUCKETS 1024 /* 16 for each power of two */

static size_t bucket(uint64_t ns) {
    int power = 63 - __builtin_clzll(ns | 16);
    return (size_t)(power * 16) + ((ns >> (power - 4)) & 15);
}

/* storm(ns, seed, keys): [0] blocks written, [1] blocks read, [2] blocks torn, then how long each push took. */
static int32_t storm(PARAMETERS) {
    uint64_t until = now() + args[0].u.u, random = args[1].u.u * 0x9e3779b97f4a7c15u + 1, keys = args[2].u.u;
    int64_t *result = host->alloc(ctx, (3 + BUCKETS) * sizeof *result, sizeof *result);
    unsigned char block[1024];
    int32_t code;
    UNUSED;
    if (!result)
        return HL_ENOMEM;
    while (now() < until) {
        char key[2] = {'k', 0};
        size_t len = 64;
        uint32_t sum;
        hl_buf found;
        if ((code = host->cancelled(ctx)))
            return code;
        random = random * 6364136223846793005u + 1442695040888963407u;
        key[1] = (char)('0' + (random >> 33) % keys);
        len += (random >> 40) % (sizeof block - len);
        for (size_t i = 4; i + 8 <= len; i += 8)
            memcpy(block + i, &random, 8);
        sum = crc32(block + 4, len - 4);
        memcpy(block, &sum, 4);
        if ((random >> 60) == 0) {
            void *to;
            if ((code = host->bus_open(ctx, key, 2, len, 0, &to)))
                return code;
            memcpy(to, block, len / 2);
            for (uint64_t from = now(); now() < from + 20000;)
                ;
            memcpy(to, block, len);
            if ((code = host->bus_seal(ctx, to, len)))
                return code;
        } else {
            uint64_t from = now();
            if ((code = host->bus_push(ctx, key, 2, block, len, 0)))
                return code;
            result[3 + bucket(now() - from)]++;
        }
        result[0]++;
        if ((random >> 56) % 16 == 1 && !host->bus_get(ctx, key, 2, &found)) {
            memcpy(&sum, found.data, 4);
            result[1]++;
            result[2] += sum != crc32((const unsigned char *)found.data + 4, found.len - 4);
        }
    }
    out->kind = HL_BUF;
    out->u.b.data = result;
    out->u.b.len = (3 + BUCKETS) * sizeof *result;
    out->u.b.fmt = "q";
    out->u.b.itemsize = sizeof *result;
    out->u.b.ndim = 1;
    return HL_OK;
}

static const hl_kernel KERNELS[] = {
    {sizeof(hl_kernel), 0, "bus.push", "none(key key, bytes data)", NULL, push, NULL, NULL},
    {sizeof(hl_kernel), 0, "bus.get", "buf(key key)", NULL, get, NULL, NULL},
    {sizeof(hl_kernel), 0, "bus.pop", "buf(key key)", NULL, pop, NULL, NULL},
    {sizeof(hl_kernel), 0, "bus.hold", "none(key key, bytes data, chan opened, chan gate, bool seal = true)", NULL, hold, NULL, NULL},
    {sizeof(hl_kernel), 0, "bus.race", "any(key key, i64 all)", NULL, race, NULL, NULL},
    {sizeof(hl_kernel), 0, "bus.own", "u64(i64 count, bytes data)", NULL, own, NULL, NULL},
    {sizeof(hl_kernel), 0, "bus.storm", "buf(u64 ns, u64 seed, u64 keys)", NULL, storm, NULL, NULL},
};
static const hl_module MODULE = HL_MODULE_INIT("bus", KERNELS);

HL_EXPORT const hl_module *hybridloop_module(uint32_t host_abi) {
    make_table();
    return host_abi == HL_ABI ? &MODULE : NULL;
}
