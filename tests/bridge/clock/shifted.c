// A clock that can be set: loaded into a program (LD_PRELOAD), it shifts the time of day by the seconds that the file CLOCK_OFFSET_FILE holds, an int64_t
// that may change at any time. Durations (CLOCK_MONOTONIC) stay what they are. A wait that ends at a time of day is drawn out where the clock is set back,
// as the kernel does it.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *shared = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED) abort();
    offset = shared;
    close(file);
}

static int64_t shift(void) {
    return offset ? *offset : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}

// Over by the clock as it was when the wait began: by the one that is, only if it was not set back meanwhile.
#define WAIT(name, condition_type, mutex_type, timed_out)                                        \
    int name(condition_type *condition, mutex_type *mutex, const struct timespec *until) {       \
        static int (*wait_until)(condition_type *, mutex_type *, const struct timespec *);       \
        if (!wait_until) wait_until = dlsym(RTLD_NEXT, #name);                                   \
        for (;;) {                                                                               \
            int64_t then = shift();                                                              \
            struct timespec end = *until;                                                        \
            end.tv_sec -= then;                                                                  \
            int result = wait_until(condition, mutex, &end);                                     \
            if (result != timed_out || shift() >= then) return result;                           \
        }                                                                                        \
    }

WAIT(pthread_cond_timedwait, pthread_cond_t, pthread_mutex_t, ETIMEDOUT)
WAIT(cnd_timedwait, cnd_t, mtx_t, thrd_timedout)
