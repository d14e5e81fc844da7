/* When preloaded, this hides AVX-512, VNNI and AMX from a process: AVX2 is the best instruction set it finds.

   The CPUID instruction is made to fault (arch_prctl(2), ARCH_SET_CPUID) and emulated here with those bits cleared. Bits: Intel's
   Software Developer's Manual, volume 2A, CPUID, leaf 7.

   /proc/cpuinfo, which the kernel fills from its own CPUID results, is replaced by a copy without the names of those instruction
   sets, whether it is opened by open, openat or fopen; the 64-bit variants are aliases of these functions on x86-64. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))
#define CPUINFO "/proc/cpuinfo"

static const char *const HIDDEN[] = {"avx512", "avx10", "avx_vnni", "avx_ifma", "avx_ne_convert", "amx_"};

static long allow_cpuid(long allowed) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed); }

static void answer(int signal_number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)registers[REG_RIP];
    if (info->si_code != SI_KERNEL || code[0] != 0x0f || code[1] != 0xa2) { /* a real fault: let it recur with the default action */
        signal(signal_number, SIG_DFL);
        return;
    }
    uint32_t leaf = registers[REG_RAX], part = registers[REG_RCX], a = leaf, b, c = part, d;
    allow_cpuid(1);
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    allow_cpuid(0);
    if (leaf == 7 && part == 0) {
        b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)); /* AVX-512 F to VL */
        c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));                                 /* VBMI, VNNI, BITALG, VPOPCNTDQ */
        d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));              /* AVX-512 FP16, AMX */
    } else if (leaf == 7 && part == 1) {
        a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));  /* AVX-VNNI, AVX-512 BF16, AMX FP16, AVX-IFMA */
        d &= ~(BIT(4) | BIT(5) | BIT(10) | BIT(19)); /* AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16, AVX10 */
    }
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    if (allow_cpuid(0)) {
        perror("this processor or kernel cannot make CPUID fault");
        exit(1);
    }
}

static FILE *open_stream(const char *path, const char *mode) {
    FILE *(*next)(const char *, const char *) = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen");
    return next(path, mode);
}

static int is_hidden(const char *word) {
    for (size_t i = 0; i < sizeof HIDDEN / sizeof *HIDDEN; i++)
        if (!strncmp(word, HIDDEN[i], strlen(HIDDEN[i]))) return 1;
    return 0;
}

/* File descriptor of the copy, or -1. */
static int older_cpuinfo(void) {
    FILE *source = open_stream(CPUINFO, "re");
    int copy = source ? memfd_create("cpuinfo", MFD_CLOEXEC) : -1;
    char *line = NULL, *rest, *word;
    size_t room = 0;
    if (copy < 0) return -1;
    while (getline(&line, &room, source) > 0)
        for (rest = line; (word = strsep(&rest, " "));) {
            if (is_hidden(word)) word = rest ? "" : "\n"; /* the last word of a line ends it */
            dprintf(copy, "%s%s", word, rest && *word ? " " : "");
        }
    free(line);
    fclose(source);
    lseek(copy, 0, SEEK_SET);
    return copy;
}

int openat(int folder, const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & (O_CREAT | __O_TMPFILE)) {
        va_list more;
        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
    }
    return strcmp(path, CPUINFO) ? syscall(SYS_openat, folder, path, flags, mode) : older_cpuinfo();
}

int open(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & (O_CREAT | __O_TMPFILE)) {
        va_list more;
        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
    }
    return openat(AT_FDCWD, path, flags, mode);
}

FILE *fopen(const char *path, const char *mode) {
    return strcmp(path, CPUINFO) ? open_stream(path, mode) : fdopen(older_cpuinfo(), mode);
}

int openat64(int folder, const char *path, int flags, ...) __attribute__((alias("openat")));
int open64(const char *path, int flags, ...) __attribute__((alias("open")));
FILE *fopen64(const char *path, const char *mode) __attribute__((alias("fopen")));
