// The kernels for AVX-512 with VNNI: compiled twice, with CROSSRANK_BF16 for processors that multiply bfloat16 too.
//
// Products are computed in tiles of 6 rows and 64 columns, whose sums and weights just fit into the 32 registers.
// Attention multiplies dwords of a query by dwords of 16 keys: two bfloat16 numbers, or one float. Everything stands in
// an unnamed namespace and calls nothing of the standard library: see kernels.h.
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

// GCC 12 spills the sums around its own intrinsic for this, which takes two thirds of the speed.
INLINE void multiply_bytes(Ints& sum, Ints bytes, Ints weights) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(weights));
}

INLINE Ints broadcast(const void* dword) {
    int32_t value;
    __builtin_memcpy(&value, dword, sizeof(value));
    return _mm512_set1_epi32(value);
}

// 2^x by a polynomial on [-1/2, 1/2], within 1e-7 of it; 0 far below.
INLINE Floats exp2(Floats x) {
    const Floats f = _mm512_sub_ps(x, _mm512_roundscale_ps(x, 0));
    Floats p = _mm512_fmadd_ps(all(0.00132764666f), f, all(0.00967554096f));
    p = _mm512_fmadd_ps(p, f, all(0.0555071346f));
    p = _mm512_fmadd_ps(p, f, all(0.240221202f));
    p = _mm512_fmadd_ps(p, f, all(0.693146944f));
    p = _mm512_fmadd_ps(p, f, all(1.00000012f));
    return _mm512_scalef_ps(p, _mm512_roundscale_ps(x, 0));
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

// 16 floats as bytes.
struct ToBytes {
    Floats inverse;
    Ints zero;
    explicit ToBytes(Quantizer quantizer) : inverse(all(1.0f / quantizer.scale)), zero(_mm512_set1_epi32(quantizer.zero)) {}
    inline __attribute__((always_inline)) __m128i operator()(Floats x) const {
        // What is beyond int32 becomes its least number, and so does NaN.
        const Ints rounded = _mm512_cvtps_epi32(at_most(1e6f, _mm512_mul_ps(x, inverse)));
        const Ints steps = _mm512_add_epi32(rounded, zero);
        return _mm512_cvtusepi32_epi8(_mm512_max_epi32(steps, _mm512_setzero_si512()));
    }
};

INLINE void store_bytes(uint8_t* to, __m128i bytes) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes); }

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

void normalize(const Norm& norm, float* rows, int count, Quantizer quantizer, uint8_t* bytes) {
    const int stride = padded(norm.width), last = chunks(norm.width) - 1;
    const __mmask16 tail = lanes(norm.width, last);
    const float part = 1.0f / static_cast<float>(norm.width);
    const ToBytes to_bytes(quantizer);
    for (int i = 0; i < count; i++) {
        float* row = rows + static_cast<size_t>(i) * stride;
        Floats sum = all(0.0f), squares = all(0.0f);
        for (int c = 0; c <= last; c++) sum = _mm512_add_ps(sum, _mm512_loadu_ps(row + c * kLanes));
        const Floats mean = all(_mm512_reduce_add_ps(sum) * part);
        for (int c = 0; c <= last; c++) {
            const Floats x = _mm512_sub_ps(_mm512_loadu_ps(row + c * kLanes), mean);
            squares = _mm512_mask3_fmadd_ps(x, x, squares, c == last ? tail : __mmask16(0xffff));
        }
        const Floats variance = all(_mm512_reduce_add_ps(squares) * part + norm.epsilon);
        const Floats inverse = _mm512_div_ps(all(1.0f), _mm512_sqrt_ps(variance));
        for (int at = 0; at < stride; at += kLanes) {  // scale and bias of the padding are 0
            Floats x = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(row + at), mean), inverse);
            x = affine(x, norm.scale + at, norm.bias + at);
            _mm512_storeu_ps(row + at, x);
            if (bytes) store_bytes(bytes + static_cast<size_t>(i) * stride + at, to_bytes(x));
        }
    }
}

// ---- products of bytes ----

// Sums of `rows` rows and 64 columns into `sums` [rows, 64].
template <int rows>
INLINE void tile(const uint8_t* bytes, size_t stride, const int8_t* panel, int steps, const int32_t* start,
                 int32_t* sums) {
    Ints sum[rows][4];
    EACH(r, rows) EACH(c, 4) sum[r][c] = _mm512_loadu_si512(start + c * kLanes);
    for (int k = 0; k < steps; k++, panel += 4 * kColumns, bytes += 4) {
        Ints weights[4];
        EACH(c, 4) weights[c] = _mm512_load_si512(panel + c * 64);
        EACH(r, rows) {
            const Ints four = broadcast(bytes + r * stride);
            EACH(c, 4) multiply_bytes(sum[r][c], four, weights[c]);
        }
    }
    EACH(r, rows) EACH(c, 4) _mm512_store_si512(sums + r * kColumns + c * kLanes, sum[r][c]);
}

// Calls write(row, column, 16 products) for all, those of the padding among them.
template <class Write>
INLINE void products(const Int8Linear& linear, const uint8_t* rows, int count, Write write) {
    const size_t stride = padded(linear.inputs);
    const int steps = (linear.inputs + 3) / 4;
    alignas(64) int32_t sums[kRows * kColumns];
    for (int n = 0; n < linear.outputs; n += kColumns) {
        const int8_t* panel = linear.weights + static_cast<size_t>(n) * steps * 4;
        const int32_t* start = linear.start + n;
        for (int i = 0; i < count; i += kRows) {
            const uint8_t* bytes = rows + i * stride;
            const int some = least(kRows, count - i);
            switch (some) {
                case 1: tile<1>(bytes, stride, panel, steps, start, sums); break;
                case 2: tile<2>(bytes, stride, panel, steps, start, sums); break;
                case 3: tile<3>(bytes, stride, panel, steps, start, sums); break;
                case 4: tile<4>(bytes, stride, panel, steps, start, sums); break;
                case 5: tile<5>(bytes, stride, panel, steps, start, sums); break;
                default: tile<6>(bytes, stride, panel, steps, start, sums);
            }
            for (int r = 0; r < some; r++) {
                EACH(c, 4) {
                    const int at = n + c * kLanes;
                    const Floats x = _mm512_cvtepi32_ps(_mm512_load_si512(sums + r * kColumns + c * kLanes));
                    write(i + r, at, affine(x, linear.scale + at, linear.bias + at));
                }
            }
        }
    }
}

void expand(const Int8Linear& linear, const uint8_t* rows, int count, Activation activation, Quantizer quantizer,
            uint8_t* out) {
    const size_t stride = padded(linear.outputs);
    const ToBytes to_bytes(quantizer);
    products(linear, rows, count, [&](int i, int n, Floats x) __attribute__((always_inline)) {
        store_bytes(out + i * stride + n, to_bytes(activated(activation, x)));
    });
}

void add(const Int8Linear& linear, const uint8_t* rows, int count, float* out) {
    const size_t stride = padded(linear.outputs);
    products(linear, rows, count, [&](int i, int n, Floats x) __attribute__((always_inline)) {
        float* to = out + i * stride + n;
        _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), x));
    });
}

// ---- attention ----

#if defined(CROSSRANK_BF16)
using Number = uint16_t;  // a bfloat16
using Wide = __mmask32;

INLINE void multiply(Floats& sum, Ints a, Ints b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}
INLINE __m256i rounded(Floats x) { return (__m256i)_mm512_cvtneps_pbh(x); }
INLINE void store(Number* to, Floats x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded(x)); }
INLINE Ints load_dwords(Wide mask, const Number* from) { return _mm512_maskz_loadu_epi16(mask, from); }
// Dwords of the same column in two rows.
INLINE Ints load_column_dwords(__mmask16 mask, const Number* row, size_t stride, bool second) {
    const Ints low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, row));
    const __mmask16 other = second ? mask : __mmask16(0);
    const Ints high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(other, second ? row + stride : row));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
#else
using Number = float;
using Wide = __mmask16;

INLINE void multiply(Floats& sum, Ints a, Ints b) {
    sum = _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}
INLINE void store(Number* to, Floats x) { _mm512_storeu_ps(to, x); }
INLINE Ints load_dwords(Wide mask, const Number* from) {
    return _mm512_castps_si512(_mm512_maskz_loadu_ps(mask, from));
}
INLINE Ints load_column_dwords(__mmask16 mask, const Number* row, size_t, bool) {
    return _mm512_castps_si512(_mm512_maskz_loadu_ps(mask, row));
}
#endif

constexpr int kPerDword = sizeof(float) / sizeof(Number);

void project(const Int8Linear& linear, const uint8_t* rows, int count, void* out) {
    const size_t stride = padded(linear.outputs);
    products(linear, rows, count, [&](int i, int n, Floats x) __attribute__((always_inline)) {
        store(static_cast<Number*>(out) + i * stride + n, x);
    });
}

// Scratch of one head, in bytes of 64: its keys [dwords of a head][tokens], its values [dwords of tokens][lanes of a
// head], and of some rows their scores and weights.
struct Scratch {
    int columns;  // tokens, padded
    int32_t *keys, *values;
    float* scores;
    Number* weights;
    size_t bytes;

    Scratch(const Heads& heads, int tokens, void* start) : columns((tokens + 31) / 32 * 32) {
        const size_t key_dwords = (heads.size + kPerDword - 1) / kPerDword * static_cast<size_t>(columns);
        const size_t value_dwords = static_cast<size_t>(columns / kPerDword) * chunks(heads.size) * kLanes;
        const size_t others = static_cast<size_t>(kRows) * columns;
        bytes = (key_dwords + value_dwords + others) * sizeof(int32_t) + others * sizeof(Number);
        keys = static_cast<int32_t*>(start);
        values = start ? keys + key_dwords : nullptr;
        scores = start ? reinterpret_cast<float*>(values + value_dwords) : nullptr;
        weights = start ? reinterpret_cast<Number*>(scores + others) : nullptr;
    }
};

size_t attend_scratch(const Heads& heads, int tokens) { return Scratch(heads, tokens, nullptr).bytes; }

// 16 rows of 16 dwords as columns.
INLINE void transpose(Ints (&x)[16]) {
    Ints t[16];
    EACH(i, 8) {
        t[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
    }
    EACH(i, 4) {
        x[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        x[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        x[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        x[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    EACH(i, 4) {
        t[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
    }
    EACH(i, 4) {
        x[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        x[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        x[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        x[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

void gather_keys(const Heads& heads, const Number* keys, size_t stride, int tokens, const Scratch& scratch) {
    const int dwords = (heads.size + kPerDword - 1) / kPerDword;
    for (int d = 0; d < dwords; d += kLanes) {
        const int left = heads.size - d * kPerDword, most = kLanes * kPerDword;
        const Wide mask = left >= most ? Wide(~Wide(0)) : Wide((Wide(1) << left) - 1);
        for (int j = 0; j < tokens; j += kLanes) {
            Ints rows[16];
            EACH(r, 16) {
                const bool there = j + r < tokens;
                rows[r] = load_dwords(there ? mask : Wide(0), keys + (there ? j + r : j) * stride + d * kPerDword);
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

// Scores of 6 queries with `wide` * 16 keys from token j on, and the largest ones so far.
template <int wide>
INLINE void score(const Number* const (&queries)[kRows], int dwords, const Scratch& scratch, int j, int tokens,
                  Floats (&largest)[kRows]) {
    Floats sum[kRows][wide];
    EACH(r, kRows) EACH(c, wide) sum[r][c] = all(0.0f);
    for (int d = 0; d < dwords; d++) {
        const int32_t* from = scratch.keys + static_cast<size_t>(d) * scratch.columns + j;
        Ints keys[wide];
        EACH(c, wide) keys[c] = _mm512_load_si512(from + c * kLanes);
        EACH(r, kRows) {
            const Ints query = broadcast(queries[r] + d * kPerDword);
            EACH(c, wide) multiply(sum[r][c], query, keys[c]);
        }
    }
    EACH(r, kRows) EACH(c, wide) {
        const Floats x = _mm512_mask_mov_ps(all(-1e30f), lanes(tokens - j, c), sum[r][c]);
        largest[r] = _mm512_max_ps(largest[r], x);
        _mm512_store_ps(scratch.scores + static_cast<size_t>(r) * scratch.columns + j + c * kLanes, x);
    }
}

// Scores of a row as weights 2^(scale * (score - largest)); returns their sum.
INLINE float weigh(const float* scores, Number* weights, int tokens, float scale, Floats largest) {
    const Floats by = all(scale), top = all(_mm512_reduce_max_ps(largest) * scale);
    Floats sum = all(0.0f);
    for (int j = 0; j < tokens; j += kLanes) {
        const Floats x = _mm512_fmsub_ps(_mm512_load_ps(scores + j), by, top);
#if defined(CROSSRANK_BF16)  // 3 digits of a weight are kept, so that a shorter polynomial does
        const Floats whole = _mm512_roundscale_ps(x, 0), f = _mm512_sub_ps(x, whole);
        Floats p = _mm512_fmadd_ps(all(0.0551716238f), f, all(0.242611125f));
        p = _mm512_fmadd_ps(p, f, all(0.693260968f));
        const Floats weight = _mm512_scalef_ps(_mm512_fmadd_ps(p, f, all(0.999928057f)), whole);
#else
        const Floats weight = exp2(x);
#endif
        sum = _mm512_add_ps(sum, weight);
        store(weights + j, weight);
    }
    return _mm512_reduce_add_ps(sum);
}

// Weighted sums of `wide` * 16 columns from chunk c on, written for `rows` rows.
template <int wide>
INLINE void mix(const Heads& heads, const Scratch& scratch, int c, int dwords, const float (&parts)[kRows], int rows,
                const ToBytes& to_bytes, uint8_t* out, size_t stride) {
    const int all_chunks = chunks(heads.size);
    Floats sum[kRows][wide];
    EACH(r, kRows) EACH(i, wide) sum[r][i] = all(0.0f);
    for (int j = 0; j < dwords; j++) {
        const int32_t* from = scratch.values + (static_cast<size_t>(j) * all_chunks + c) * kLanes;
        Ints values[wide];
        EACH(i, wide) values[i] = _mm512_load_si512(from + i * kLanes);
        EACH(r, kRows) {
            const Ints weight = broadcast(scratch.weights + static_cast<size_t>(r) * scratch.columns + j * kPerDword);
            EACH(i, wide) multiply(sum[r][i], weight, values[i]);
        }
    }
    EACH(r, kRows) EACH(i, wide) {
        const __m128i bytes = to_bytes(_mm512_mul_ps(sum[r][i], all(parts[r])));
        if (r < rows) _mm_mask_storeu_epi8(out + r * stride + (c + i) * kLanes, lanes(heads.size, c + i), bytes);
    }
}

void attend(const Heads& heads, const void* projected, int tokens, int head, Quantizer quantizer, uint8_t* context,
            void* memory) {
    const size_t stride = padded(3 * heads.hidden), out_stride = padded(heads.hidden);
    const Number* queries = static_cast<const Number*>(projected) + head * heads.size;
    const Scratch scratch(heads, tokens, memory);
    gather_keys(heads, queries + heads.hidden, stride, tokens, scratch);
    gather_values(heads, queries + 2 * heads.hidden, stride, tokens, scratch);
    const int dwords = (heads.size + kPerDword - 1) / kPerDword;
    const int all_tokens = chunks(tokens), all_columns = chunks(heads.size);
    // Softmax by powers of 2, with the scale of scores in one.
    const float scale = kLog2e / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(static_cast<float>(heads.size))));
    const ToBytes to_bytes(quantizer);
    for (int i = 0; i < tokens; i += kRows) {
        const int rows = least(kRows, tokens - i);
        const Number* some[kRows];
        Floats largest[kRows];
        float parts[kRows];
        for (int r = 0; r < kRows; r++) {
            some[r] = queries + (i + least(r, rows - 1)) * stride;
            largest[r] = all(-1e30f);
        }
        int c = 0;
        for (; c + 4 <= all_tokens; c += 4) score<4>(some, dwords, scratch, c * kLanes, tokens, largest);
        for (; c + 2 <= all_tokens; c += 2) score<2>(some, dwords, scratch, c * kLanes, tokens, largest);
        for (; c < all_tokens; c++) score<1>(some, dwords, scratch, c * kLanes, tokens, largest);
        for (int r = 0; r < kRows; r++) {
            const size_t at = static_cast<size_t>(r) * scratch.columns;
            parts[r] = 1.0f / weigh(scratch.scores + at, scratch.weights + at, tokens, scale, largest[r]);
        }
        uint8_t* out = context + i * out_stride + head * heads.size;
        const int steps = all_tokens * kLanes / kPerDword;
        for (c = 0; c + 4 <= all_columns; c += 4) mix<4>(heads, scratch, c, steps, parts, rows, to_bytes, out, out_stride);
        for (; c + 2 <= all_columns; c += 2) mix<2>(heads, scratch, c, steps, parts, rows, to_bytes, out, out_stride);
        for (; c < all_columns; c++) mix<1>(heads, scratch, c, steps, parts, rows, to_bytes, out, out_stride);
    }
}

// ---- products of floats ----

INLINE Floats load_weights(const float* from) { return _mm512_loadu_ps(from); }
INLINE Floats load_weights(const int8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}

// Rows [count, inputs] by weights whose chunks of 16 columns and whose inputs lie so far apart.
template <class Weight>
struct FloatProduct {
    int inputs, outputs;
    const Weight* weights;
    size_t chunk, step;
    const float *scale, *bias;  // null for neither
    Activation activation;
    bool add;
    const float* rows;
    int64_t stride;
    float* out;
    int64_t out_stride;
};
template <class Weight, class... Others>
FloatProduct(int, int, const Weight*, Others...) -> FloatProduct<Weight>;

// `rows` rows from i on, `wide` * 16 columns from chunk c on. Each sum is over one input after the other, so that it
// does not depend on the tile.
template <int rows, int wide, class Weight>
INLINE void float_tile(const FloatProduct<Weight>& product, int i, int c) {
    const Weight* from = product.weights + c * product.chunk;
    const float* row = product.rows + i * product.stride;
    Floats sum[rows][wide];
    EACH(r, rows) EACH(n, wide) sum[r][n] = all(0.0f);
    for (int k = 0; k < product.inputs; k++) {
        Floats weight[wide];
        EACH(n, wide) weight[n] = load_weights(from + n * product.chunk + k * product.step);
        EACH(r, rows) {
            const Floats x = all(row[r * product.stride + k]);
            EACH(n, wide) sum[r][n] = _mm512_fmadd_ps(x, weight[n], sum[r][n]);
        }
    }
    EACH(r, rows) EACH(n, wide) {
        const int at = (c + n) * kLanes;
        const __mmask16 mask = lanes(product.outputs, c + n);
        float* to = product.out + (i + r) * product.out_stride + at;
        Floats x = sum[r][n];
        if (product.scale) x = affine(x, product.scale + at, product.bias + at);
        x = activated(product.activation, x);
        if (product.add) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(mask, to));
        _mm512_mask_storeu_ps(to, mask, x);
    }
}

template <int rows, class Weight>
INLINE void float_rows(const FloatProduct<Weight>& product, int i) {
    constexpr int most = rows == 1 ? 8 : 4;
    const int all_columns = chunks(product.outputs);
    int c = 0;
    for (; c + most <= all_columns; c += most) float_tile<rows, most>(product, i, c);
    for (; c + 2 <= all_columns; c += 2) float_tile<rows, 2>(product, i, c);
    for (; c < all_columns; c++) float_tile<rows, 1>(product, i, c);
}

template <class Weight>
void multiply_floats(const FloatProduct<Weight>& product, int count) {
    int i = 0;
    for (; i + kRows <= count; i += kRows) float_rows<kRows>(product, i);
    for (; i + 2 <= count; i += 2) float_rows<2>(product, i);
    for (; i < count; i++) float_rows<1>(product, i);
}

void linear(const Linear& linear, const float* rows, int64_t stride, int count, Activation activation, bool add,
            float* out, int64_t out_stride) {
    const size_t chunk = static_cast<size_t>(linear.inputs) * kLanes;
    const auto multiply = [&](auto* weights) {
        multiply_floats(FloatProduct{linear.inputs, linear.outputs, weights, chunk, kLanes, linear.scale, linear.bias,
                                     activation, add, rows, stride, out, out_stride}, count);
    };
    if (linear.int8_weights) multiply(linear.int8_weights);
    else multiply(linear.float_weights);
}

// ---- attention of one row ----

// Scores of `wide` heads, [wide, padded tokens].
template <int wide>
INLINE void score_first(const float* probes, const float* rows, int tokens, int width, float* scores) {
    const size_t stride = padded(width), columns = padded(tokens);
    for (int j = 0; j < tokens; j++) {
        Floats sum[wide];
        EACH(h, wide) sum[h] = all(0.0f);
        for (int c = 0; c < chunks(width); c++) {
            const Floats x = _mm512_loadu_ps(rows + j * stride + c * kLanes);
            const __mmask16 mask = lanes(width, c);
            EACH(h, wide) {
                sum[h] = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(mask, probes + h * stride + c * kLanes), sum[h]);
            }
        }
        EACH(h, wide) scores[h * columns + j] = _mm512_reduce_add_ps(sum[h]);
    }
}

// Scores in place as the weights of a mean.
void softmax(float* scores, int count) {
    Floats largest = all(-1e30f), sum = all(0.0f);
    for (int c = 0; c < chunks(count); c++) {
        largest = _mm512_mask_max_ps(largest, lanes(count, c), largest, _mm512_loadu_ps(scores + c * kLanes));
    }
    const Floats top = all(_mm512_reduce_max_ps(largest));
    for (int c = 0; c < chunks(count); c++) {
        const Floats x = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(scores + c * kLanes), top), all(kLog2e));
        const Floats weight = _mm512_maskz_mov_ps(lanes(count, c), exp2(x));
        sum = _mm512_add_ps(sum, weight);
        _mm512_storeu_ps(scores + c * kLanes, weight);
    }
    const Floats part = all(1.0f / _mm512_reduce_add_ps(sum));
    for (int c = 0; c < chunks(count); c++) {
        _mm512_storeu_ps(scores + c * kLanes, _mm512_mul_ps(_mm512_loadu_ps(scores + c * kLanes), part));
    }
}

void attend_first(const Heads& heads, const float* probes, const float* rows, int tokens, float* mixed,
                  float* scratch) {
    const int stride = padded(heads.hidden), columns = padded(tokens);
    int h = 0;
    for (; h + 4 <= heads.count; h += 4) {
        score_first<4>(probes + h * stride, rows, tokens, heads.hidden, scratch + h * columns);
    }
    for (; h < heads.count; h++) score_first<1>(probes + h * stride, rows, tokens, heads.hidden, scratch + h * columns);
    for (h = 0; h < heads.count; h++) softmax(scratch + h * columns, tokens);
    const FloatProduct<float> mix = {tokens, heads.hidden, rows, kLanes, static_cast<size_t>(stride), nullptr, nullptr,
                                     Activation::identity, false, scratch, columns, mixed, stride};
    multiply_floats(mix, heads.count);
}

}  // namespace

#if defined(CROSSRANK_BF16)
#define TABLE kAvx512VnniBf16
#define NAME "avx512-vnni avx512-bf16"
#else
#define TABLE kAvx512Vnni
#define NAME "avx512-vnni"
#endif

const Kernels TABLE = {NAME, sizeof(Number), embed,          normalize, project, expand,
                       add,  attend,         attend_scratch, linear,    attend_first};

}  // namespace crossrank
