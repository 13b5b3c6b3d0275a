/* The wall clock of a program under test: what a file says, in place of what the kernel says.
 *
 * Preloaded, it answers gettimeofday, time, and clock_gettime of CLOCK_REALTIME and its coarse sister. Every other
 * clock stays the kernel's. The file that LOCKFS_TEST_CLOCK names begins with a word of 64 bits, which whoever has
 * mapped the file may change at any time: bit 0 is 1 if the clock is frozen; the bits above, with their sign, are
 * microseconds: since 1970 of a frozen clock, from the kernel's clock of one that runs.
 *
 * The allocator asks for the time before the program runs, so nothing here allocates, takes a lock, or looks up a
 * symbol: the kernel is asked by system call. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *clock_word;

__attribute__((constructor)) static void map_the_file(void) {
    const char *name = getenv("LOCKFS_TEST_CLOCK");
    if (name == NULL) return;
    int file = open(name, O_RDONLY | O_CLOEXEC);
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED) {
        static const char text[] = "the file of LOCKFS_TEST_CLOCK cannot be mapped\n";
        (void)!write(2, text, sizeof text - 1);
        _exit(70);
    }
    close(file);
    clock_word = page;
}

static int now(clockid_t clock, struct timespec *time) {
    const volatile int64_t *word_at = clock_word;
    if (word_at == NULL) return (int)syscall(SYS_clock_gettime, clock, time);
    int64_t word = __atomic_load_n(word_at, __ATOMIC_SEQ_CST);
    int64_t micros = word >> 1, nanos = 0;
    if ((word & 1) == 0) {
        int answer = (int)syscall(SYS_clock_gettime, clock, time);
        if (answer != 0) return answer;
        micros += (int64_t)time->tv_sec * 1000000 + time->tv_nsec / 1000;
        nanos = time->tv_nsec % 1000;
    }
    time->tv_sec = micros / 1000000;
    time->tv_nsec = micros % 1000000 * 1000 + nanos;
    return 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) return now(clock, time);
    return (int)syscall(SYS_clock_gettime, clock, time);
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec all;
    (void)zone;
    int answer = now(CLOCK_REALTIME, &all);
    if (answer != 0) return answer;
    time->tv_sec = all.tv_sec;
    time->tv_usec = all.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *seconds) {
    struct timespec all;
    if (now(CLOCK_REALTIME, &all) != 0) return -1;
    if (seconds != NULL) *seconds = all.tv_sec;
    return all.tv_sec;
}
