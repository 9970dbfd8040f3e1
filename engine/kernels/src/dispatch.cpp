// Which kernels this processor runs. Compiled for any.
#include "kernels.h"

#if defined(CROSSRANK_AVX512)
#include <cpuid.h>
#endif

namespace crossrank {

#if defined(CROSSRANK_AVX512)
const Kernels* best_kernels() {
    unsigned a, b, c, d, seven_a, seven_b, seven_c, seven_d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return nullptr;  // no OSXSAVE
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 0xe6) != 0xe6) return nullptr;  // the system does not keep the registers of AVX-512
    if (!__get_cpuid_count(7, 0, &seven_a, &seven_b, &seven_c, &seven_d)) return nullptr;
    const unsigned needed = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
    if ((seven_b & needed) != needed || !(seven_c & (1u << 11))) return nullptr;  // VNNI
    const bool more = seven_a >= 1 && __get_cpuid_count(7, 1, &seven_a, &seven_b, &seven_c, &seven_d);
    return more && (seven_a & (1u << 5)) ? &kAvx512VnniBf16 : &kAvx512Vnni;
}
#else
const Kernels* best_kernels() { return nullptr; }
#endif

}  // namespace crossrank
