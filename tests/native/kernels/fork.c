/* A kernel that is hard at work in all that a fork may interrupt. */
#include "hybridloop.h"

/* Pushes to a channel, takes from it, writes to the bus and tells how far it is, without a pause until it is cancelled. */
static int32_t storm(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    (void)n, (void)out, (void)user;
    uint64_t channel = args[0].u.u;
    for (uint64_t i = 0;; i++) {
        hl_val item = {HL_U64, 0, {.u = i}}, taken;
        int32_t code = host->chan_push(ctx, channel, &item);
        if (!code)
            code = host->chan_pop(ctx, channel, &taken);
        if (!code || code == HL_EEMPTY)
            code = host->bus_push(ctx, "storm", 5, &i, sizeof i, 0);
        if (!code)
            code = host->cancelled(ctx);
        if (code)
            return code;
        host->progress(ctx, i, UINT64_MAX);
        if (i % 4096 == 0)
            host->emit(ctx, &item);
    }
}

static const hl_kernel KERNELS[] = {
    {sizeof(hl_kernel), 0, "fork.storm", "none(chan channel)", "", storm, NULL, NULL},
};
static const hl_module MODULE = HL_MODULE_INIT("fork", KERNELS);
HL_EXPORT const hl_module *hybridloop_module(uint32_t host_abi) { return host_abi == HL_ABI ? &MODULE : NULL; }
