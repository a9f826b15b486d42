/* Makes the n-th system call on a directory fail, or kills the process before it.
 *
 * A seccomp filter traps every system call that could touch a file, whoever makes it: Python, LMDB, or libc for itself (a
 * wrapper around libc's functions would miss those of opendir). The SIGSYS handler looks whether the call concerns the
 * directory, counts it, writes it down on a board shared with the test, and carries it out or not.
 *
 * Nothing here may call libc but for memcpy and the like: the handler runs inside of any function.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#define PATH_BYTES 512
#define CALLS_MAX 16384

/* What is to happen to the call number `at`, and so which calls are counted at all. */
enum fault { NOTHING, ANY_ERROR, SPACE_ERROR, SHORT, KILL };

/* The layouts of `Call` and `Board` in shim.py. */
struct call {
    int32_t number, descriptor, is_hit, thread;
    int64_t result;
    char path[PATH_BYTES - 24];
};

struct board {
    int32_t is_armed, fault, error, at, only;
    int32_t counted, hits, logged;
    char root[PATH_BYTES], part[PATH_BYTES];
    struct call calls[CALLS_MAX];
};

static struct board *board;

/* The one place from which calls are let through: the filter knows it by the address behind the instruction. */
long faults_call(long number, long a, long b, long c, long d, long e, long f);
extern char faults_call_end[];
__asm__(".text\n.globl faults_call\n.globl faults_call_end\n"
        "faults_call:\n mov %rdi, %rax\n mov %rsi, %rdi\n mov %rdx, %rsi\n mov %rcx, %rdx\n mov %r8, %r10\n"
        " mov %r9, %r8\n mov 8(%rsp), %r9\n syscall\nfaults_call_end:\n ret\n");

#define CALL(number, a, b, c, d) faults_call(number, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

static const int watched[] = {
    SYS_open, SYS_openat, SYS_close, SYS_read, SYS_pread64, SYS_readv, SYS_preadv, SYS_write, SYS_pwrite64, SYS_writev,
    SYS_pwritev, SYS_fsync, SYS_fdatasync, SYS_sync_file_range, SYS_rename, SYS_renameat, SYS_renameat2, SYS_link,
    SYS_linkat, SYS_unlink, SYS_unlinkat, SYS_rmdir, SYS_mkdir, SYS_mkdirat, SYS_ftruncate, SYS_truncate, SYS_fallocate,
    SYS_getdents64, SYS_stat, SYS_lstat, SYS_fstat, SYS_newfstatat, SYS_statx, SYS_access, SYS_faccessat, SYS_faccessat2,
    SYS_statfs, SYS_fstatfs, SYS_flock, SYS_fcntl,
};
#define WATCHED (sizeof watched / sizeof *watched)

static size_t append(char *to, size_t at, const char *text) {
    while (*text && at < PATH_BYTES - 25)
        to[at++] = *text++;
    to[at] = 0;
    return at;
}

static size_t path_of_descriptor(int descriptor, char *to) {
    char link[32] = "/proc/self/fd/", digits[12];
    size_t at = strlen(link), count = 0;
    if (descriptor == AT_FDCWD)
        memcpy(link, "/proc/self/cwd", 15);
    else if (descriptor < 0)
        return to[0] = 0;
    else {
        do
            digits[count++] = '0' + descriptor % 10;
        while (descriptor /= 10);
        while (count)
            link[at++] = digits[--count];
        link[at] = 0;
    }
    long size = CALL(SYS_readlink, link, to, PATH_BYTES - 25, 0);
    if (size < 0)
        size = 0;
    to[size] = 0;
    return size;
}

static void path_at(int directory, const char *path, char *to) {
    size_t at = 0;
    to[0] = 0;
    if (!path)
        return;
    if (*path != '/') {
        at = path_of_descriptor(directory, to);
        if (*path)
            at = append(to, at, "/");
    }
    append(to, at, path);
}

static int is_below_root(const char *path) {
    size_t size = strlen(board->root);
    return strncmp(path, board->root, size) == 0 && (path[size] == '/' || path[size] == 0);
}

/* Whether a call concerns the directory; its path, the new one where there are two. */
static int concerns_us(int number, const long long *a, char *path) {
    char other[PATH_BYTES];
    switch (number) {
    case SYS_open: case SYS_stat: case SYS_lstat: case SYS_access: case SYS_truncate: case SYS_unlink: case SYS_rmdir:
    case SYS_mkdir: case SYS_statfs:
        path_at(AT_FDCWD, (const char *)a[0], path);
        return is_below_root(path);
    case SYS_openat: case SYS_unlinkat: case SYS_mkdirat: case SYS_newfstatat: case SYS_statx: case SYS_faccessat:
    case SYS_faccessat2:
        path_at((int)a[0], (const char *)a[1], path);
        return is_below_root(path);
    case SYS_rename: case SYS_link:
        path_at(AT_FDCWD, (const char *)a[0], other);
        path_at(AT_FDCWD, (const char *)a[1], path);
        return is_below_root(path) || is_below_root(other);
    case SYS_renameat: case SYS_renameat2: case SYS_linkat:
        path_at((int)a[0], (const char *)a[1], other);
        path_at((int)a[2], (const char *)a[3], path);
        return is_below_root(path) || is_below_root(other);
    case SYS_fcntl:
        /* Locks, LMDB's; the other commands touch no file. */
        if (a[1] != F_SETLK && a[1] != F_SETLKW && a[1] != F_GETLK && a[1] != F_OFD_SETLK && a[1] != F_OFD_SETLKW)
            return 0;
        /* fall through */
    default:
        path_of_descriptor((int)a[0], path);
        return is_below_root(path);
    }
}

static int is_transfer(int number) {
    return number == SYS_read || number == SYS_pread64 || number == SYS_write || number == SYS_pwrite64;
}

static int is_vector(int number) {
    return number == SYS_readv || number == SYS_preadv || number == SYS_writev || number == SYS_pwritev;
}

static int takes_space(int number, const long long *a) {
    switch (number) {
    case SYS_open:
        return (a[1] & O_CREAT) != 0;
    case SYS_openat:
        return (a[2] & O_CREAT) || (a[2] & O_TMPFILE) == O_TMPFILE;
    case SYS_write: case SYS_pwrite64: case SYS_writev: case SYS_pwritev: case SYS_fsync: case SYS_fdatasync:
    case SYS_sync_file_range: case SYS_rename: case SYS_renameat: case SYS_renameat2: case SYS_link: case SYS_linkat:
    case SYS_mkdir: case SYS_mkdirat: case SYS_ftruncate: case SYS_fallocate:
        return 1;
    }
    return 0;
}

static int is_eligible(int number, const long long *a, const char *path) {
    if ((board->only && number != board->only) || !strstr(path, board->part))
        return 0;
    switch (board->fault) {
    case SPACE_ERROR:
        return takes_space(number, a);
    case SHORT:
        return (is_transfer(number) && a[2] > 1) || is_vector(number);
    }
    return 1;
}

static long shortened(int number, const long long *a) {
    if (is_transfer(number))
        return CALL(number, a[0], a[1], a[2] / 2, a[3]);
    struct iovec half = *(const struct iovec *)a[1];
    half.iov_len = (half.iov_len + 1) / 2;
    return CALL(number, a[0], &half, 1, a[3]);
}

static long failed(int number, const long long *a) {
    /* The descriptor is gone all the same: Linux frees it before anything can fail. */
    if (number == SYS_close)
        CALL(number, a[0], 0, 0, 0);
    return -board->error;
}

static long carry_out(int number, const long long *a) {
    return faults_call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static long judge(int number, const long long *a) {
    char path[PATH_BYTES];
    if (!board->is_armed || !concerns_us(number, a, path))
        return carry_out(number, a);
    int turn = is_eligible(number, a, path) ? __atomic_add_fetch(&board->counted, 1, __ATOMIC_SEQ_CST) : 0;
    int is_hit = turn && board->fault != NOTHING && turn == board->at;
    int slot = __atomic_fetch_add(&board->logged, 1, __ATOMIC_SEQ_CST);
    struct call unseen, *call = slot < CALLS_MAX ? &board->calls[slot] : &unseen;
    call->number = number;
    call->descriptor = (int)a[0];
    call->is_hit = is_hit;
    call->thread = (int)CALL(SYS_gettid, 0, 0, 0, 0);
    append(call->path, 0, path);
    if (is_hit) {
        __atomic_add_fetch(&board->hits, 1, __ATOMIC_SEQ_CST);
        if (board->fault == KILL)
            CALL(SYS_kill, CALL(SYS_getpid, 0, 0, 0, 0), SIGKILL, 0, 0);
        call->result = board->fault == SHORT ? shortened(number, a) : failed(number, a);
    } else
        call->result = carry_out(number, a);
    return call->result;
}

static void on_trap(int signal, siginfo_t *info, void *context) {
    (void)signal;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const long long arguments[6] = {registers[REG_RDI], registers[REG_RSI], registers[REG_RDX],
                                    registers[REG_R10], registers[REG_R8],  registers[REG_R9]};
    registers[REG_RAX] = judge(info->si_syscall, arguments);
}

/* Trap the watched calls of this process from now on, of threads still to come too. Returns 0, or an errno. */
int faults_install(struct board *shared) {
    struct sock_filter code[WATCHED + 9];
    size_t at = 0;
    uint64_t allowed = (uint64_t)faults_call_end;
    board = shared;
#define LOAD(field) (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define EQUAL(value, yes, no) (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
    code[at++] = LOAD(instruction_pointer);
    code[at++] = EQUAL((uint32_t)allowed, 0, 3);
    code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4);
    code[at++] = EQUAL((uint32_t)(allowed >> 32), 0, 1);
    code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[at++] = LOAD(nr);
    for (size_t each = 0; each < WATCHED; each++, at++)
        code[at] = EQUAL(watched[each], WATCHED - each, 0);
    code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    struct sock_fprog program = {.len = at, .filter = code};
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_RESTART};
    if (sigaction(SIGSYS, &action, NULL) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return errno;
    return 0;
}

/* Preloaded into a program: the board is the file that FAULTS_BOARD names. */
__attribute__((constructor)) static void preloaded(void) {
    const char *path = getenv("FAULTS_BOARD");
    if (!path)
        return;
    int file = open(path, O_RDWR | O_CLOEXEC);
    void *shared = mmap(NULL, sizeof(struct board), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file < 0 || shared == MAP_FAILED || faults_install(shared))
        _exit(97);
    close(file);
}
