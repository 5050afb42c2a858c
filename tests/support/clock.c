/* For tests: a wall clock that somebody set. LD_PRELOAD it; the file that CLOCK_OFFSET names holds seconds. No other clock
 * is touched, as on a real machine. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *out) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(id, out);
    const char *name = getenv("CLOCK_OFFSET");
    if (answer != 0 || id != CLOCK_REALTIME || !name) return answer;
    char text[32] = {0};
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        if (read(file, text, sizeof text - 1) > 0) out->tv_sec += atol(text);
        close(file);
    }
    return answer;
}
