/* What lies between a node and its machine, and can be made to fail: loaded into one process with LD_PRELOAD.
 *
 * Faults are read from a file that is mapped into memory (FAULTY_SYSTEM_CONTROL), so that they begin and end at once, at
 * no cost while there are none. They concern files under one folder (FAULTY_SYSTEM_FOLDER), and all clocks. What has
 * honestly been put on disk is noted in another file (FAULTY_SYSTEM_SYNCED): for each sync, the file's inode and how long
 * it was when the sync began; for each new file, its inode and 0. Whoever wants to see what a loss of power leaves
 * behind cuts each file to the last length that is noted of it.
 *
 * The layout of the mapped file is that of `system_faults.py`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define BILLION 1000000000LL
#define MILLION 1000000LL
#define FILES 65536
#define LOOK_NS 2000000 /* how often a sync that is held back looks whether it still is */

/* real + offset + (real - base) * rate / 1,000,000 */
struct faulty_clock {
    int64_t base_ns, offset_ns, rate_ppm;
};

struct faults {
    int64_t version; /* odd while the clocks are being set */
    struct faulty_clock wall, monotonic;
    int64_t sync_delay_ns, sync_errno, sync_lies, write_errno, read_errno, disk_full;
    int64_t syncs, syncs_failed, syncs_lied, writes_failed, reads_failed;
};

static volatile struct faults *faults;
static char folder[PATH_MAX];
static size_t folder_length;
static int synced = -1;
static volatile unsigned char inside[FILES]; /* by descriptor: a file under the folder */

static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_read)(int, void *, size_t);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static int (*real_statvfs)(const char *, struct statvfs *);
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_clock_nanosleep)(clockid_t, int, const struct timespec *, struct timespec *);
static int (*real_pthread_cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_pthread_cond_clockwait)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
static int (*real_sem_timedwait)(sem_t *, const struct timespec *);
static int (*real_sem_clockwait)(sem_t *, clockid_t, const struct timespec *);

#define FIND(name)                                       \
    do {                                                 \
        if (!real_##name)                                \
            *(void **)&real_##name = dlsym(RTLD_NEXT, #name); \
    } while (0)

/* There is an older one of the same name, with other conditions. */
static void find_condition_wait(void) {
    if (!real_pthread_cond_timedwait)
        *(void **)&real_pthread_cond_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    FIND(pthread_cond_timedwait);
}

__attribute__((constructor)) static void begin(void) {
    FIND(open); FIND(close); FIND(fsync); FIND(fdatasync); FIND(write); FIND(writev); FIND(pwrite); FIND(read);
    FIND(pread); FIND(statvfs); FIND(clock_gettime); FIND(clock_nanosleep); FIND(pthread_cond_clockwait);
    FIND(sem_timedwait); FIND(sem_clockwait);
    find_condition_wait();
    const char *control = getenv("FAULTY_SYSTEM_CONTROL");
    const char *under = getenv("FAULTY_SYSTEM_FOLDER");
    const char *noted = getenv("FAULTY_SYSTEM_SYNCED");
    if (!control || !under || !noted || strlen(under) + 2 > sizeof folder)
        return;
    strcpy(folder, under);
    strcat(folder, "/");
    folder_length = strlen(folder);
    int file = real_open(control, O_RDWR | O_CLOEXEC);
    if (file < 0)
        abort();
    void *mapped = mmap(NULL, sizeof(struct faults), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    real_close(file);
    synced = real_open(noted, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (mapped == MAP_FAILED || synced < 0)
        abort();
    faults = mapped;
}

static int is_inside(int file) { return faults && file >= 0 && file < FILES && inside[file]; }

static void note(int64_t inode, int64_t length) {
    int64_t line[2] = {inode, length};
    if (real_write(synced, line, sizeof line) != sizeof line)
        abort();
}

/* -- files */

static int opened(int file, int flags) {
    char link[64], path[PATH_MAX];
    if (!faults || file < 0 || file >= FILES)
        return file;
    int before = errno;
    char digits[16];
    int at = sizeof digits, number = file;
    digits[--at] = 0;
    do
        digits[--at] = '0' + number % 10;
    while (number /= 10);
    strcpy(link, "/proc/self/fd/");
    strcat(link, digits + at);
    ssize_t length = readlink(link, path, sizeof path - 1);
    inside[file] = length > (ssize_t)folder_length && !memcmp(path, folder, folder_length);
    struct stat found;
    if (inside[file] && (flags & O_CREAT) && !fstat(file, &found) && found.st_size == 0)
        note(found.st_ino, 0);
    errno = before;
    return file;
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int); /* without O_CREAT there is none, and nobody looks at it */
    va_end(rest);
    FIND(open);
    return opened(real_open(path, flags, mode), flags);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    FIND(open);
    return opened(real_open(path, flags | O_LARGEFILE, mode), flags);
}

int close(int file) {
    FIND(close);
    if (file >= 0 && file < FILES)
        inside[file] = 0;
    return real_close(file);
}

static int64_t real_monotonic(void) {
    struct timespec now;
    real_clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * BILLION + now.tv_nsec;
}

static int sync_with(int (*real)(int), int file) {
    if (!is_inside(file))
        return real(file);
    __sync_fetch_and_add(&faults->syncs, 1);
    int64_t began = real_monotonic();
    while (real_monotonic() - began < faults->sync_delay_ns) {
        struct timespec pause = {0, LOOK_NS};
        nanosleep(&pause, NULL);
    }
    if (faults->sync_errno) {
        __sync_fetch_and_add(&faults->syncs_failed, 1);
        errno = (int)faults->sync_errno;
        return -1;
    }
    if (faults->sync_lies) {
        __sync_fetch_and_add(&faults->syncs_lied, 1);
        return 0;
    }
    struct stat found;
    int known = !fstat(file, &found); /* before: what is written meanwhile may miss this sync */
    int result = real(file);
    if (result == 0 && known && S_ISREG(found.st_mode))
        note(found.st_ino, found.st_size);
    return result;
}

int fsync(int file) { FIND(fsync); return sync_with(real_fsync, file); }

int fdatasync(int file) { FIND(fdatasync); return sync_with(real_fdatasync, file); }

static int may_not_write(int file) {
    if (!is_inside(file) || !faults->write_errno)
        return 0;
    __sync_fetch_and_add(&faults->writes_failed, 1);
    errno = (int)faults->write_errno;
    return 1;
}

static int may_not_read(int file) {
    if (!is_inside(file) || !faults->read_errno)
        return 0;
    __sync_fetch_and_add(&faults->reads_failed, 1);
    errno = (int)faults->read_errno;
    return 1;
}

ssize_t write(int file, const void *bytes, size_t count) {
    FIND(write);
    return may_not_write(file) ? -1 : real_write(file, bytes, count);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    FIND(writev);
    return may_not_write(file) ? -1 : real_writev(file, parts, count);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) {
    FIND(pwrite);
    return may_not_write(file) ? -1 : real_pwrite(file, bytes, count, at);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off_t at) {
    FIND(pwrite);
    return may_not_write(file) ? -1 : real_pwrite(file, bytes, count, at);
}

ssize_t read(int file, void *bytes, size_t count) {
    FIND(read);
    return may_not_read(file) ? -1 : real_read(file, bytes, count);
}

ssize_t pread(int file, void *bytes, size_t count, off_t at) {
    FIND(pread);
    return may_not_read(file) ? -1 : real_pread(file, bytes, count, at);
}

ssize_t pread64(int file, void *bytes, size_t count, off_t at) {
    FIND(pread);
    return may_not_read(file) ? -1 : real_pread(file, bytes, count, at);
}

int statvfs(const char *path, struct statvfs *found) {
    FIND(statvfs);
    int result = real_statvfs(path, found);
    if (result == 0 && faults && faults->disk_full)
        found->f_bavail = found->f_bfree = 0;
    return result;
}

int statvfs64(const char *path, struct statvfs64 *found) { return statvfs(path, (struct statvfs *)found); }

/* -- clocks */

static struct faulty_clock rule_of(int wall) {
    struct faulty_clock rule;
    int64_t version;
    do {
        version = __atomic_load_n(&faults->version, __ATOMIC_ACQUIRE);
        rule.base_ns = wall ? faults->wall.base_ns : faults->monotonic.base_ns;
        rule.offset_ns = wall ? faults->wall.offset_ns : faults->monotonic.offset_ns;
        rule.rate_ppm = wall ? faults->wall.rate_ppm : faults->monotonic.rate_ppm;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
    } while ((version & 1) || version != __atomic_load_n(&faults->version, __ATOMIC_RELAXED));
    return rule;
}

static int64_t shown_at(struct faulty_clock rule, int64_t real) {
    /* Exact, since coarse steps of a slow clock would be steps back. */
    int64_t drift = (int64_t)((__int128)(real - rule.base_ns) * rule.rate_ppm / MILLION);
    return real + rule.offset_ns + drift;
}

static int64_t nanoseconds(const struct timespec *time) { return time->tv_sec * BILLION + time->tv_nsec; }

static void falsify(int wall, struct timespec *now) {
    int64_t shown = shown_at(rule_of(wall), nanoseconds(now));
    now->tv_sec = shown / BILLION;
    now->tv_nsec = shown % BILLION;
}

/* The kernel waits by the real clock: return when that is, of a time that a process has reckoned by the one it sees.
 * Without this, a thread that waits for Python's interpreter lock never waits, or for much too long. */
static const struct timespec *real_deadline(int wall, const struct timespec *shown, struct timespec *real) {
    struct timespec now;
    if (!faults || !shown || real_clock_gettime(wall ? CLOCK_REALTIME : CLOCK_MONOTONIC, &now))
        return shown;
    int64_t real_now = nanoseconds(&now);
    int64_t left = nanoseconds(shown) - shown_at(rule_of(wall), real_now);
    int64_t until = real_now + (left > 0 ? left : 0);
    real->tv_sec = until / BILLION;
    real->tv_nsec = until % BILLION;
    return real;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    FIND(clock_gettime);
    int result = real_clock_gettime(clock, now);
    if (result || !faults)
        return result;
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
        falsify(1, now);
        break;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_BOOTTIME:
        falsify(0, now);
        break;
    }
    return 0;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec found;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &found))
        return -1;
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (result)
        *result = found.tv_sec;
    return found.tv_sec;
}

/* -- waiting until a time */

static int is_wall(clockid_t clock) { return clock == CLOCK_REALTIME; }

/* A condition knows its clock and does not say; no machine has been up for so long as the wall clock shows. */
static int looks_like_wall(const struct timespec *time) { return time && time->tv_sec > BILLION; }

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *wanted, struct timespec *left) {
    struct timespec real;
    FIND(clock_nanosleep);
    if (flags & TIMER_ABSTIME)
        wanted = real_deadline(is_wall(clock), wanted, &real);
    return real_clock_nanosleep(clock, flags, wanted, left);
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
    struct timespec real;
    find_condition_wait();
    return real_pthread_cond_timedwait(condition, mutex, real_deadline(looks_like_wall(until), until, &real));
}

int pthread_cond_clockwait(
    pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until) {
    struct timespec real;
    FIND(pthread_cond_clockwait);
    return real_pthread_cond_clockwait(condition, mutex, clock, real_deadline(is_wall(clock), until, &real));
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
    struct timespec real;
    FIND(sem_timedwait);
    return real_sem_timedwait(semaphore, real_deadline(1, until, &real));
}

int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *until) {
    struct timespec real;
    FIND(sem_clockwait);
    return real_sem_clockwait(semaphore, clock, real_deadline(is_wall(clock), until, &real));
}
