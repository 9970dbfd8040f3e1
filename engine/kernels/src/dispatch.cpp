// Which kernels this processor runs, and a table of theirs. Compiled for any.
#include <cmath>

#include "kernels.h"

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
const Kernels* best_kernels() {  // these say of the system too whether it keeps the registers
    __builtin_cpu_init();
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
    const bool more = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (!wide || !more || !__builtin_cpu_supports("avx512vnni")) return nullptr;
    return __builtin_cpu_supports("avx512bf16") ? &kAvx512VnniBf16 : &kAvx512Vnni;
}
#else
const Kernels* best_kernels() { return nullptr; }
#endif

}  // namespace crossrank
