// The kernels for AVX-512 with VNNI: compiled twice, with CROSSRANK_BF16 for processors that multiply bfloat16 too.
//
// All products, those of attention among them, are one loop: a dword of each of 6 rows meets the dwords of 64 columns,
// and sums and columns just fit into the 32 registers. Everything stands in an unnamed namespace and calls nothing of
// the standard library: see kernels.h.
#include <immintrin.h>

#include "kernels.h"

#define EACH(i, count) _Pragma("GCC unroll 16") for (int i = 0; i < (count); i++)  // unrolled
#define INLINE static inline __attribute__((always_inline))

namespace crossrank {
namespace {

using Floats = __m512;
using Ints = __m512i;

constexpr int kLanes = 16;
constexpr int kRows = 6;

INLINE Floats all(float value) { return _mm512_set1_ps(value); }
// x limited from one side; a NaN stays one, since these give their second operand where one of them is none.
INLINE Floats at_most(float limit, Floats x) { return _mm512_min_ps(all(limit), x); }
INLINE Floats at_least(float limit, Floats x) { return _mm512_max_ps(all(limit), x); }
INLINE int least(int a, int b) { return a < b ? a : b; }
INLINE int chunks(int count) { return (count + kLanes - 1) / kLanes; }
INLINE Floats affine(Floats x, const float* scale, const float* bias) {
    return _mm512_fmadd_ps(x, _mm512_loadu_ps(scale), _mm512_loadu_ps(bias));
}
// The lanes of chunk c that hold one of `count` numbers.
INLINE __mmask16 lanes(int count, int c) {
    const int left = count - c * kLanes;
    return left >= kLanes ? __mmask16(0xffff) : __mmask16((1u << left) - 1);
}

INLINE Ints broadcast(const void* dword) {
    int32_t value;
    __builtin_memcpy(&value, dword, sizeof(value));
    return _mm512_set1_epi32(value);
}

// ---- what meets in a product: a dword of a row, and dwords or weights of 16 columns ----

INLINE Ints load(const int32_t* from) { return _mm512_loadu_si512(from); }
INLINE Ints load(const float* from) { return _mm512_loadu_si512(from); }
INLINE Ints load(const int8_t* from) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
}
INLINE void store(float* to, Floats x, __mmask16 mask = 0xffff) { _mm512_mask_storeu_ps(to, mask, x); }

struct Bytes {
    using Column = int32_t;
    // GCC 12 spills the sums around its own intrinsic for this, which takes two thirds of the speed.
    INLINE void multiply(Ints& sum, Ints four, Ints weights) {
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(four), "v"(weights));
    }
    INLINE Floats floats(Ints sum) { return _mm512_cvtepi32_ps(sum); }
};

template <class Weight>
struct Scalars {  // a float by weights
    using Column = Weight;
    INLINE void multiply(Ints& sum, Ints x, Ints weights) {
        sum = _mm512_castps_si512(_mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(weights), floats(sum)));
    }
    INLINE Floats floats(Ints sum) { return _mm512_castsi512_ps(sum); }
};

#if defined(CROSSRANK_BF16)
using Number = uint16_t;  // a bfloat16

struct Numbers {
    using Column = int32_t;
    INLINE void multiply(Ints& sum, Ints two, Ints weights) {
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(two), "v"(weights));
    }
    INLINE Floats floats(Ints sum) { return _mm512_castsi512_ps(sum); }
};

INLINE void store(Number* to, Floats x, __mmask16 mask = 0xffff) {
    _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(x));
}
// Dwords of the same column in two rows.
INLINE Ints load_column_dwords(__mmask16 mask, const Number* row, size_t stride, bool second) {
    const Ints low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, row));
    const __mmask16 other = second ? mask : __mmask16(0);
    const Ints high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(other, second ? row + stride : row));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
#else
using Number = float;
using Numbers = Scalars<float>;

INLINE Ints load_column_dwords(__mmask16 mask, const Number* row, size_t, bool) {
    return _mm512_castps_si512(_mm512_maskz_loadu_ps(mask, row));
}
#endif
constexpr int kPerDword = sizeof(float) / sizeof(Number);

// ---- functions of 16 floats ----

// 2^x by a polynomial on [-1/2, 1/2], within 1e-7 of it, or within 1e-4 where 3 digits are kept; 0 far below.
template <bool coarse = false>
INLINE Floats exp2(Floats x) {
    const Floats whole = _mm512_roundscale_ps(x, 0), f = _mm512_sub_ps(x, whole);
    Floats p = all(0.0551716238f);
    if (!coarse) {
        p = _mm512_fmadd_ps(all(0.00132764666f), f, all(0.00967554096f));
        p = _mm512_fmadd_ps(p, f, all(0.0555071346f));
    }
    p = _mm512_fmadd_ps(p, f, all(coarse ? 0.242611125f : 0.240221202f));
    p = _mm512_fmadd_ps(p, f, all(coarse ? 0.693260968f : 0.693146944f));
    return _mm512_scalef_ps(_mm512_fmadd_ps(p, f, all(coarse ? 0.999928057f : 1.00000012f)), whole);
}

constexpr float kLog2e = 1.44269504f;

INLINE Floats sigmoid(Floats x) {
    // Beyond 80 nothing changes, and 2^x stays finite.
    const Floats limited = at_least(-80.0f, at_most(80.0f, x));
    return _mm512_div_ps(all(1.0f), _mm512_add_ps(all(1.0f), exp2(_mm512_mul_ps(limited, all(-kLog2e)))));
}

// x / 2 * (1 + erf(x / sqrt(2))), within 1e-6 of it, with a third of the work of a polynomial for all x.
INLINE Floats gelu(Floats x) {
    const Floats a = at_most(kGelu.end * 0.999999f, _mm512_abs_ps(x));
    const Ints segment = _mm512_cvttps_epi32(_mm512_mul_ps(a, all(kGelu.segments / kGelu.end)));
    const auto c = [&](int power) __attribute__((always_inline)) {
        const float* from = kGelu.coefficients[power];
        return _mm512_permutex2var_ps(_mm512_load_ps(from), segment, _mm512_load_ps(from + kLanes));
    };
    const Floats p = _mm512_fmadd_ps(_mm512_fmadd_ps(_mm512_fmadd_ps(c(3), a, c(2)), a, c(1)), a, c(0));
    return _mm512_sub_ps(at_least(0.0f, x), p);
}

INLINE Floats activated(Activation activation, Floats x) {
    switch (activation) {
        case Activation::identity: return x;
        case Activation::gelu: return gelu(x);
        case Activation::gelu_new: {
            const Floats cubic = _mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_mul_ps(x, all(0.044715f)));
            return _mm512_mul_ps(x, sigmoid(_mm512_mul_ps(all(2 * 0.79788456f), _mm512_add_ps(x, cubic))));
        }
        case Activation::relu: return at_least(0.0f, x);
        case Activation::tanh:
            return _mm512_fmsub_ps(all(2.0f), sigmoid(_mm512_mul_ps(x, all(2.0f))), all(1.0f));
    }
    return x;
}

// Calls work(put), where put(at, 16 floats, mask) writes what a quantizer says.
template <class Work>
INLINE void written(Quantizer quantizer, void* out, Work work) {
    if (quantizer.scale > 0.0f) {
        const Floats inverse = all(1.0f / quantizer.scale);
        const Ints zero = _mm512_set1_epi32(quantizer.zero);
        work([=](size_t at, Floats x, __mmask16 mask = 0xffff) __attribute__((always_inline)) {
            // What is beyond int32 becomes its least number, and so does NaN.
            const Ints rounded = _mm512_cvtps_epi32(at_most(1e6f, _mm512_mul_ps(x, inverse)));
            const Ints steps = _mm512_max_epi32(_mm512_add_epi32(rounded, zero), _mm512_setzero_si512());
            __m128i bytes = _mm512_cvtusepi32_epi8(steps);
            __asm__("" : "+v"(bytes));  // else it and the store become one instruction, which is slower
            _mm_mask_storeu_epi8(static_cast<uint8_t*>(out) + at, mask, bytes);
        });
    } else {
        work([=](size_t at, Floats x, __mmask16 mask = 0xffff) __attribute__((always_inline)) {
            store(static_cast<Number*>(out) + at, x, mask);
        });
    }
}

// ---- rows ----

void embed(const Embeddings& tables, const int32_t* ids, const int32_t* types, const int32_t* positions, int count,
           float* rows) {
    const int width = tables.width, stride = padded(width);
    for (int i = 0; i < count; i++) {
        const int8_t* word = tables.words + static_cast<size_t>(ids[i]) * width;
        const float* position = tables.positions + static_cast<size_t>(positions[i]) * width;
        const float* type = tables.types ? tables.types + static_cast<size_t>(types ? types[i] : 0) * width : nullptr;
        const Floats scale = all(tables.word_scales[ids[i]]);
        float* row = rows + static_cast<size_t>(i) * stride;
        for (int c = 0; c < stride / kLanes; c++) {
            const int at = c * kLanes;
            const __mmask16 mask = at < width ? lanes(width, c) : __mmask16(0);
            Floats x = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, word + at)));
            x = _mm512_mul_ps(x, scale);
            if (type) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(mask, type + at));
            _mm512_storeu_ps(row + at, _mm512_add_ps(x, _mm512_maskz_loadu_ps(mask, position + at)));
        }
    }
}

void normalize(const Norm& norm, float* rows, int count, Quantizer quantizer, void* out) {
    const int stride = padded(norm.width), filled = chunks(norm.width);
    const float part = 1.0f / static_cast<float>(norm.width);
    written(quantizer, out, [&](auto put) __attribute__((always_inline)) {
        for (size_t row = 0; row < static_cast<size_t>(count) * stride; row += stride) {
            Floats sum = all(0.0f), squares = all(0.0f);
            for (int c = 0; c < filled; c++) sum = _mm512_add_ps(sum, _mm512_loadu_ps(rows + row + c * kLanes));
            const Floats mean = all(_mm512_reduce_add_ps(sum) * part);
            for (int c = 0; c < filled; c++) {
                const Floats x = _mm512_sub_ps(_mm512_loadu_ps(rows + row + c * kLanes), mean);
                squares = _mm512_mask3_fmadd_ps(x, x, squares, lanes(norm.width, c));
            }
            const Floats variance = all(_mm512_reduce_add_ps(squares) * part + norm.epsilon);
            const Floats inverse = _mm512_div_ps(all(1.0f), _mm512_sqrt_ps(variance));
            for (int at = 0; at < stride; at += kLanes) {  // scale and bias of the padding are 0
                Floats x = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(rows + row + at), mean), inverse);
                x = affine(x, norm.scale + at, norm.bias + at);
                store(rows + row + at, x);
                if (out) put(row + at, x);
            }
        }
    });
}

// ---- products ----

template <int number>
struct Constant { static constexpr int value = number; };

// Where the columns of a product lie. How far apart: a dword of 16 columns and their next; those and the next 16 of a
// tile; and, for each 16 before it, the first columns and a tile's.
template <class Pair>
struct Columns {
    const void* first;
    size_t step, chunk, before;
};

// Calls write(row, chunk of 16 columns, products), beginning with `start` unless that is null. Rows are `stride` bytes
// apart. Each sum is over one dword after the other, so that it does not depend on the tile. Sums are written out of
// registers, or if not `direct` by way of memory, so that a long `write` is not unrolled.
template <bool direct, class Pair, class Write>
INLINE void multiply(const void* rows, size_t stride, int count, const Columns<Pair>& columns, int chunks, int dwords,
                     const int32_t* start, Write write) {
    const auto tiles = [&](int c, auto wide) __attribute__((always_inline)) {
        constexpr int width = decltype(wide)::value;
        alignas(64) Ints sums[kRows][width];
        for (int i = 0; i < count; i += kRows) {
            const auto tile = [&](auto some) __attribute__((always_inline)) {
                constexpr int height = decltype(some)::value;
                const char* row = static_cast<const char*>(rows) + i * stride;
                const auto* from = static_cast<const typename Pair::Column*>(columns.first) + c * columns.before;
                Ints sum[height][width];
                EACH(r, height) EACH(n, width) {
                    sum[r][n] = start ? _mm512_loadu_si512(start + (c + n) * kLanes) : _mm512_setzero_si512();
                }
                for (int k = 0; k < dwords; k++, from += columns.step, row += sizeof(int32_t)) {
                    Ints column[width];
                    EACH(n, width) column[n] = load(from + n * columns.chunk);
                    EACH(r, height) {
                        const Ints dword = broadcast(row + r * stride);
                        EACH(n, width) Pair::multiply(sum[r][n], dword, column[n]);
                    }
                }
                EACH(r, height) EACH(n, width) {
                    if (direct) write(i + r, c + n, Pair::floats(sum[r][n]));
                    else sums[r][n] = sum[r][n];
                }
            };
            switch (count - i) {
                case 1: tile(Constant<1>()); break;
                case 2: tile(Constant<2>()); break;
                case 3: tile(Constant<3>()); break;
                case 4: tile(Constant<4>()); break;
                case 5: tile(Constant<5>()); break;
                default: tile(Constant<kRows>());
            }
            for (int r = 0; !direct && r < least(kRows, count - i); r++) {
                EACH(n, width) write(i + r, c + n, Pair::floats(sums[r][n]));
            }
        }
    };
    int c = 0;
    for (; c + 4 <= chunks; c += 4) tiles(c, Constant<4>());
    for (; c + 2 <= chunks; c += 2) tiles(c, Constant<2>());
    for (; c < chunks; c++) tiles(c, Constant<1>());
}

// Calls write(row, column, 16 products) for all, those of the padding among them.
template <bool direct, class Write>
INLINE void products(const Product& product, const void* rows, int count, Write write) {
    const auto multiply_as = [&](auto pair, int per_dword) __attribute__((always_inline)) {
        using Pair = decltype(pair);
        const size_t stride = static_cast<size_t>(padded(product.inputs)) * sizeof(int32_t) / per_dword;
        const int dwords = (product.inputs + per_dword - 1) / per_dword;
        const Columns<Pair> columns = {product.weights, kColumns, kLanes, static_cast<size_t>(dwords) * kLanes};
        multiply<direct>(rows, stride, count, columns, padded(product.outputs) / kLanes, dwords, product.start,
                 [&](int i, int c, Floats x) __attribute__((always_inline)) {
                     write(i, c * kLanes, affine(x, product.scale + c * kLanes, product.bias + c * kLanes));
                 });
    };
    if (product.kind == Kind::bytes) multiply_as(Bytes(), 4);
    else multiply_as(Numbers(), kPerDword);
}

void project(const Product& product, const void* rows, int count, void* out) {
    const size_t stride = padded(product.outputs);
    products<true>(product, rows, count, [&](int i, int at, Floats x) __attribute__((always_inline)) {
        store(static_cast<Number*>(out) + i * stride + at, x);
    });
}

void expand(const Product& product, const void* rows, int count, Activation activation, Quantizer quantizer,
            void* out) {
    const size_t stride = padded(product.outputs);
    written(quantizer, out, [&](auto put) __attribute__((always_inline)) {
        products<false>(product, rows, count, [&](int i, int at, Floats x) __attribute__((always_inline)) {
            put(i * stride + at, activated(activation, x));
        });
    });
}

void add(const Product& product, const void* rows, int count, float* out) {
    const size_t stride = padded(product.outputs);
    products<true>(product, rows, count, [&](int i, int at, Floats x) __attribute__((always_inline)) {
        float* to = out + i * stride + at;
        store(to, _mm512_add_ps(_mm512_loadu_ps(to), x));
    });
}

void linear(const Product& product, const float* rows, int64_t stride, int count, Activation activation, bool add,
            float* out, int64_t out_stride) {
    const size_t chunk = static_cast<size_t>(product.inputs) * kLanes;
    const auto multiply_by = [&](auto columns) __attribute__((always_inline)) {
        multiply<false>(rows, stride * sizeof(float), count, columns, chunks(product.outputs), product.inputs, nullptr,
                 [&](int i, int c, Floats x) __attribute__((always_inline)) {
                     const __mmask16 mask = lanes(product.outputs, c);
                     float* to = out + i * out_stride + c * kLanes;
                     x = activated(activation, affine(x, product.scale + c * kLanes, product.bias + c * kLanes));
                     store(to, add ? _mm512_add_ps(x, _mm512_maskz_loadu_ps(mask, to)) : x, mask);
                 });
    };
    if (product.kind == Kind::int8) multiply_by(Columns<Scalars<int8_t>>{product.weights, kLanes, chunk, chunk});
    else multiply_by(Columns<Scalars<float>>{product.weights, kLanes, chunk, chunk});
}

// ---- attention ----

// Scratch of one head, in bytes of 64: its keys [dwords of a head][tokens], its values [dwords of tokens][lanes of a
// head], and of some rows their scores and weights.
struct Scratch {
    int columns;  // tokens, padded
    Numbers::Column *keys, *values;
    float* scores;
    Number* weights;
    size_t bytes;

    Scratch(const Heads& heads, int tokens, void* start) : columns((tokens + 31) / 32 * 32) {
        const size_t key_dwords = (heads.size + kPerDword - 1) / kPerDword * static_cast<size_t>(columns);
        const size_t value_dwords = static_cast<size_t>(columns / kPerDword) * chunks(heads.size) * kLanes;
        const size_t others = static_cast<size_t>(kRows) * columns;
        bytes = (key_dwords + value_dwords + others) * sizeof(int32_t) + others * sizeof(Number);
        keys = static_cast<Numbers::Column*>(start);
        values = start ? keys + key_dwords : nullptr;
        scores = start ? reinterpret_cast<float*>(values + value_dwords) : nullptr;
        weights = start ? reinterpret_cast<Number*>(scores + others) : nullptr;
    }
};

size_t attend_scratch(const Heads& heads, int tokens) { return Scratch(heads, tokens, nullptr).bytes; }

// 16 rows of 16 dwords as columns: each bit of a row's number changes places with that of a column's.
INLINE void transpose(Ints (&x)[16]) {
    const Ints lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    EACH(power, 4) {
        const int bit = 1 << power;
        const __mmask16 set = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(bit));
        const Ints low = _mm512_mask_add_epi32(lane, set, lane, _mm512_set1_epi32(16 - bit));
        const Ints high = _mm512_add_epi32(low, _mm512_set1_epi32(bit));
        EACH(i, 16) if (!(i & bit)) {
            const Ints first = x[i];
            x[i] = _mm512_permutex2var_epi32(first, low, x[i + bit]);
            x[i + bit] = _mm512_permutex2var_epi32(first, high, x[i + bit]);
        }
    }
}

void gather_keys(const Heads& heads, const Number* keys, size_t stride, int tokens, const Scratch& scratch) {
    const int dwords = (heads.size + kPerDword - 1) / kPerDword;
    for (int d = 0; d < dwords; d += kLanes) {
        const size_t left = (heads.size - d * kPerDword) * sizeof(Number);
        const __mmask64 mask = left < 64 ? (__mmask64(1) << left) - 1 : ~__mmask64(0);
        for (int j = 0; j < tokens; j += kLanes) {
            Ints rows[16];
            EACH(r, 16) {
                const bool there = j + r < tokens;
                const Number* from = keys + (there ? j + r : j) * stride + d * kPerDword;
                rows[r] = _mm512_maskz_loadu_epi8(there ? mask : 0, from);
            }
            transpose(rows);
            for (int r = 0; r < least(kLanes, dwords - d); r++) {
                _mm512_store_si512(scratch.keys + static_cast<size_t>(d + r) * scratch.columns + j, rows[r]);
            }
        }
    }
}

void gather_values(const Heads& heads, const Number* values, size_t stride, int tokens, const Scratch& scratch) {
    const int wide = chunks(heads.size);
    for (int j = 0; j * kPerDword < chunks(tokens) * kLanes; j++) {
        const int row = j * kPerDword;
        for (int c = 0; c < wide; c++) {
            const __mmask16 mask = row < tokens ? lanes(heads.size, c) : __mmask16(0);
            const Number* from = values + (row < tokens ? row : 0) * stride + c * kLanes;
            _mm512_store_si512(scratch.values + (static_cast<size_t>(j) * wide + c) * kLanes,
                               load_column_dwords(mask, from, stride, row + 1 < tokens));
        }
    }
}

// Scores of a row as weights 2^(scale * (score - largest)); returns their sum.
template <class Weight>
INLINE float weigh(const float* scores, Weight* weights, int tokens, float scale, float largest) {
    const Floats by = all(scale), top = all(largest * scale);
    Floats sum = all(0.0f);
    for (int j = 0; j < tokens; j += kLanes) {
        const Floats weight = exp2<sizeof(Weight) == 2>(_mm512_fmsub_ps(_mm512_loadu_ps(scores + j), by, top));
        sum = _mm512_add_ps(sum, weight);
        store(weights + j, weight);
    }
    return _mm512_reduce_add_ps(sum);
}

void attend(const Heads& heads, const void* projected, int tokens, int head, Quantizer quantizer, void* context,
            void* memory) {
    const size_t stride = padded(3 * heads.hidden), out_stride = padded(heads.hidden);
    const Number* queries = static_cast<const Number*>(projected) + head * heads.size;
    const Scratch scratch(heads, tokens, memory);
    gather_keys(heads, queries + heads.hidden, stride, tokens, scratch);
    gather_values(heads, queries + 2 * heads.hidden, stride, tokens, scratch);
    const int dwords = (heads.size + kPerDword - 1) / kPerDword;
    const int all_tokens = chunks(tokens), all_columns = chunks(heads.size);
    const size_t columns = scratch.columns;
    const Columns<Numbers> keys = {scratch.keys, columns, kLanes, kLanes};
    const Columns<Numbers> values = {scratch.values, static_cast<size_t>(all_columns) * kLanes, kLanes, kLanes};
    // Softmax by powers of 2, with the scale of scores in one.
    const float scale = kLog2e / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(static_cast<float>(heads.size))));
    const int width = heads.size + (head + 1 == heads.count ? heads.hidden % kPerDword : 0);
    written(quantizer, context, [&](auto put) __attribute__((always_inline)) {
        for (int i = 0; i < tokens; i += kRows) {
            const int rows = least(kRows, tokens - i);
            Floats largest[kRows];
            float parts[kRows];
            for (int r = 0; r < rows; r++) largest[r] = all(-1e30f);
            multiply<true>(queries + i * stride, stride * sizeof(Number), rows, keys, all_tokens, dwords, nullptr,
                     [&](int r, int c, Floats x) __attribute__((always_inline)) {
                         x = _mm512_mask_mov_ps(all(-1e30f), lanes(tokens, c), x);
                         largest[r] = _mm512_max_ps(largest[r], x);
                         store(scratch.scores + r * columns + c * kLanes, x);
                     });
            for (int r = 0; r < rows; r++) {
                const float top = _mm512_reduce_max_ps(largest[r]);
                const size_t at = r * columns;
                parts[r] = 1.0f / weigh(scratch.scores + at, scratch.weights + at, tokens, scale, top);
            }
            multiply<true>(scratch.weights, columns * sizeof(Number), rows, values, all_columns,
                     all_tokens * kLanes / kPerDword, nullptr,
                     [&](int r, int c, Floats x) __attribute__((always_inline)) {
                         const size_t at = (i + r) * out_stride + head * heads.size + c * kLanes;
                         put(at, _mm512_mul_ps(x, all(parts[r])), lanes(width, c));
                     });
        }
    });
}

void attend_first(const Heads& heads, const float* probes, const float* rows, int tokens, float* mixed,
                  float* scratch) {
    const size_t stride = padded(heads.hidden);
    const Columns<Scalars<float>> columns = {rows, stride, kLanes, kLanes};
    for (int h = 0; h < heads.count; h++, probes += stride, mixed += stride) {
        for (int j = tokens; j < chunks(tokens) * kLanes; j++) scratch[j] = -1e30f;
        float largest = -1e30f;
        for (int j = 0; j < tokens; j++) {
            Floats sum = all(0.0f);
            for (int c = 0; c < chunks(heads.hidden); c++) {
                const Floats probe = _mm512_maskz_loadu_ps(lanes(heads.hidden, c), probes + c * kLanes);
                sum = _mm512_fmadd_ps(_mm512_loadu_ps(rows + j * stride + c * kLanes), probe, sum);
            }
            scratch[j] = _mm512_reduce_add_ps(sum);
            if (scratch[j] > largest) largest = scratch[j];
        }
        const Floats part = all(1.0f / weigh(scratch, scratch, tokens, kLog2e, largest));
        multiply<true>(scratch, 0, 1, columns, chunks(heads.hidden), tokens, nullptr,
                 [&](int, int c, Floats x) __attribute__((always_inline)) {
                     store(mixed + c * kLanes, _mm512_mul_ps(x, part), lanes(heads.hidden, c));
                 });
    }
}

}  // namespace

#if defined(CROSSRANK_BF16)
const Kernels kAvx512VnniBf16 = {"avx512-vnni avx512-bf16",
#else
const Kernels kAvx512Vnni = {"avx512-vnni",
#endif
    sizeof(Number), embed, normalize, project, expand, add, attend, attend_scratch, linear, attend_first};

}  // namespace crossrank
