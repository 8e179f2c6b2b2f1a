#include "device.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct job {
    device_done done;
    void *arg;
    struct job *next;
};

struct device {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct job *first, **last;
    unsigned milliseconds, count;
    int is_closing;
};

static void *work(void *arg)
{
    struct device *d = (struct device *)arg;
    struct timespec duration = {d->milliseconds / 1000, d->milliseconds % 1000 * 1000000L};
    for (;;) {
        struct job *job;
        int is_closing;
        pthread_mutex_lock(&d->mutex);
        while (d->first == NULL && !d->is_closing) {
            pthread_cond_wait(&d->changed, &d->mutex);
        }
        job = d->first;
        if (job != NULL && (d->first = job->next) == NULL) {
            d->last = &d->first;
        }
        is_closing = d->is_closing;
        pthread_mutex_unlock(&d->mutex);
        if (job == NULL) {
            return NULL;
        }
        if (!is_closing) {
            nanosleep(&duration, NULL);
        }
        job->done(job->arg, is_closing ? NAN : 20.0 + d->count++ % 10 / 10.0);
        free(job);
    }
}

struct device *device_open(unsigned milliseconds)
{
    struct device *d = (struct device *)calloc(1, sizeof(*d));
    if (d == NULL) {
        return NULL;
    }
    d->milliseconds = milliseconds;
    d->last = &d->first;
    pthread_mutex_init(&d->mutex, NULL);
    pthread_cond_init(&d->changed, NULL);
    if (pthread_create(&d->thread, NULL, work, d) != 0) {
        free(d);
        return NULL;
    }
    return d;
}

int device_measure(struct device *d, device_done done, void *arg)
{
    struct job *job = (struct job *)malloc(sizeof(*job));
    if (job == NULL) {
        return -1;
    }
    job->done = done;
    job->arg = arg;
    job->next = NULL;
    pthread_mutex_lock(&d->mutex);
    *d->last = job;
    d->last = &job->next;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->mutex);
    return 0;
}

void device_close(struct device *d)
{
    pthread_mutex_lock(&d->mutex);
    d->is_closing = 1;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->mutex);
    pthread_join(d->thread, NULL);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->mutex);
    free(d);
}
