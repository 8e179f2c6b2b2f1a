/*
 * A kernel for a library that calls back from a thread of its own: the device of ../../awaitables/c/device.h. No worker waits for
 * it; the kernel takes a completion token, passes it on and returns.
 *
 *     cc -std=c99 -O2 -fPIC -shared -pthread -I../../../include -o libmeter.so meter.c ../../awaitables/c/device.c
 */
#include "hybridloop.h"

#include "../../awaitables/c/device.h"

#include <math.h>
#include <stdlib.h>

static struct device *device;

struct reading {
    const hl_host *host;
    hl_ctx *ctx;
    uint64_t token;
};

/* Called by the device, in its thread. */
static void done(void *arg, double celsius) {
    struct reading *reading = arg;
    const hl_host *host = reading->host;
    hl_val value = {HL_F64, 0, {0}};
    value.u.f = celsius;
    if (isnan(celsius))
        host->complete(reading->token, host->fail(reading->ctx, 1, "the device was closed", 21), NULL);
    else
        host->complete(reading->token, HL_OK, &value);
    free(reading);
}

/* measure(): begins a measurement. The device cannot give one up, so nothing has to be done when the job is cancelled: a stop
   function would be the third argument of defer(). */
static int32_t measure(const hl_host *host, hl_ctx *ctx, const hl_val *args, size_t n, hl_val *out, void *user) {
    struct reading *reading;
    (void)args, (void)n, (void)out, (void)user;
    if (!HL_HAS(host, hl_host, complete))
        return host->fail(ctx, HL_ECLOSED, "this hybridloop has no completion tokens", 40);
    reading = malloc(sizeof *reading);
    if (reading == NULL)
        return HL_ENOMEM;
    reading->host = host;
    reading->ctx = ctx;
    reading->token = host->defer(ctx, NULL, NULL, NULL);
    if (reading->token == 0 || device_measure(device, done, reading) != 0) {
        free(reading);
        return HL_ENOMEM; /* a token that was taken no longer counts */
    }
    return HL_PENDING; /* the device may have called back already */
}

static const hl_kernel KERNELS[] = {
    {sizeof(hl_kernel), HL_ASYNC, "meter.measure", "f64()", "The temperature, in degrees Celsius.", measure, NULL, NULL},
};
static const hl_module MODULE = HL_MODULE_INIT("meter", KERNELS);

HL_EXPORT const hl_module *hybridloop_module(uint32_t host_abi) {
    if (host_abi != HL_ABI || (device == NULL && (device = device_open(2)) == NULL))
        return NULL;
    return &MODULE;
}
