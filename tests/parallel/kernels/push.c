/* Kernels that fill a list. */
#include "hybridloop.h"

#include <string.h>

#define KERNEL(name) \
    static int32_t name(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user)
#define UNUSED (void)host, (void)ctx, (void)args, (void)n, (void)out, (void)user

/* Pushes the numbers from args[1] on, args[2] of them; meanwhile it has a megabyte of its own. */
KERNEL(push) {
    UNUSED;
    char *own = host->alloc(ctx, 1 << 20, 16);
    if (!own)
        return HL_ENOMEM;
    memset(own, 1, 1 << 20);
    for (int64_t i = 0; i < args[2].u.i; i++) {
        hl_val item = {HL_I64, 0, {args[1].u.i + i}};
        int32_t code = host->chan_push(ctx, args[0].u.u, &item);
        if (code)
            return code;
    }
    return HL_OK;
}

/* Pushes a value of each kind. */
KERNEL(push_kinds) {
    UNUSED;
    hl_val items[6];
    memset(items, 0, sizeof items);
    items[0].kind = HL_NONE;
    items[1].kind = HL_BOOL;
    items[1].u.i = 1;
    items[2].kind = HL_U64;
    items[2].u.u = UINT64_MAX;
    items[3].kind = HL_F64;
    items[3].u.f = 0.5;
    items[4].kind = HL_STR;
    items[4].u.b.data = "text";
    items[4].u.b.len = 4;
    items[5].kind = HL_BUF;
    items[5].u.b.data = "bytes";
    items[5].u.b.len = 5;
    items[5].u.b.itemsize = 1;
    items[5].u.b.ndim = 1;
    items[5].u.b.flags = HL_CONTIGUOUS;
    for (int i = 0; i < 6; i++) {
        int32_t code = host->chan_push(ctx, args[0].u.u, &items[i]);
        if (code)
            return code;
    }
    return HL_OK;
}

/* Moves what is in one list to another; says how many there were. */
KERNEL(move) {
    UNUSED;
    hl_val item;
    int32_t code;
    out->kind = HL_I64;
    out->u.i = 0;
    while ((code = host->chan_pop(ctx, args[0].u.u, &item)) == HL_OK) {
        if ((code = host->chan_push(ctx, args[1].u.u, &item)))
            return code;
        out->u.i++;
    }
    return code == HL_EEMPTY ? HL_OK : code;
}

#define ENTRY(name, sig) {sizeof(hl_kernel), 0, "lists." #name, sig, NULL, name, NULL, NULL}

static const hl_kernel KERNELS[] = {
    ENTRY(push, "none(chan list, i64 begin, i64 count)"),
    ENTRY(push_kinds, "none(chan list)"),
    ENTRY(move, "i64(chan source, chan target)"),
};
static const hl_module MODULE = HL_MODULE_INIT("lists", KERNELS);

HL_EXPORT const hl_module *hybridloop_module(uint32_t host_abi) { return host_abi == HL_ABI ? &MODULE : NULL; }
