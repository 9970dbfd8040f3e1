// Which kernels this processor runs, and a table of theirs. Compiled for any.
#include <cmath>

#include "kernels.h"

#if defined(CROSSRANK_AVX512)
#include <cpuid.h>
#endif

namespace crossrank {

// Through g at 4 points of each segment, those that keep the error smallest.
GeluTable::GeluTable() : coefficients() {
    for (int segment = 0; segment < segments; segment++) {
        double x[4], y[4], c[4] = {};
        for (int i = 0; i < 4; i++) {
            const double at = 0.5 - 0.5 * std::cos((2 * i + 1) * 3.14159265358979 / 8);
            x[i] = (segment + at) * end / segments;
            y[i] = 0.5 * x[i] * std::erfc(x[i] / std::sqrt(2.0));
        }
        for (int step = 1; step < 4; step++) {  // Newton's divided differences
            for (int i = 3; i >= step; i--) y[i] = (y[i] - y[i - 1]) / (x[i] - x[i - step]);
        }
        for (int i = 3; i >= 0; i--) {  // c = c * (x - x[i]) + y[i]
            for (int power = 3; power > 0; power--) c[power] = c[power - 1] - x[i] * c[power];
            c[0] = y[i] - x[i] * c[0];
        }
        for (int power = 0; power < 4; power++) coefficients[power][segment] = static_cast<float>(c[power]);
    }
}

const GeluTable kGelu;

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
