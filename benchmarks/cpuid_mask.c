/* Answers the CPUID instruction as a CPU without some features would; preloaded by benchmarks/masked_cpu.py.
 *
 * masked_cpu.py replaces each `cpuid` (0f a2) in the runtimes' libraries by `int3; nop` (cc 90). The trap lands
 * here: the real CPUID is executed and the hidden features are cleared. Everything else runs at full speed, on
 * the kernels that the library chooses for such a CPU.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

static int hide_vnni; /* otherwise AVX-512 as a whole, which includes it */

static void mask(uint32_t leaf, uint32_t subleaf, uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d)
{
    if (leaf == 7 && subleaf == 0) {
        *c &= ~(1u << 11);                          /* AVX512_VNNI */
        *d &= ~(1u << 22 | 1u << 24 | 1u << 25);    /* AMX: bf16, tile, int8 */
        if (!hide_vnni) {
            *b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 3u << 26 | 1u << 28 | 3u << 30);
            *c &= ~(1u << 1 | 1u << 6 | 1u << 12 | 1u << 14);
            *d &= ~(3u << 2 | 1u << 8 | 1u << 23);
        }
    } else if (leaf == 7 && subleaf == 1) {
        *a &= ~(1u << 4 | 1u << 5 | 1u << 21);      /* AVX-VNNI, AVX512_BF16, AMX-FP16 */
        *d &= ~(1u << 4 | 1u << 5 | 1u << 8 | 1u << 10 | 1u << 19); /* AVX-VNNI-INT8, -INT16, AVX10 */
    } else if (leaf == 0x24) {
        *a = *b = *c = *d = 0;                      /* AVX10 */
    }
}

static void on_trap(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint32_t leaf = (uint32_t)registers[REG_RAX], subleaf = (uint32_t)registers[REG_RCX], a, b, c, d;
    (void)info;
    if (*(const uint8_t *)registers[REG_RIP] != 0x90) { /* somebody else's breakpoint */
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    __cpuid_count(leaf, subleaf, a, b, c, d);
    mask(leaf, subleaf, &a, &b, &c, &d);
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
}

__attribute__((constructor)) static void install(void)
{
    struct sigaction action;
    const char *hidden = getenv("CPUID_MASK");
    hide_vnni = hidden != NULL && strcmp(hidden, "vnni") == 0;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_trap;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGTRAP, &action, NULL);
}
