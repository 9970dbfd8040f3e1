// What a forward pass is made of: a table of kernels, and the packed weights that they take. What each computes is said
// in plain C++ by the tests' reference.cpp, which has a table of its own.
//
// Files of kernels are compiled for processors that this one may not be. They see this header alone, which has no
// inline function of external linkage: the linker might else keep the copy that was compiled for AVX-512 for everyone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace crossrank {

enum class Activation : int32_t { identity, gelu, gelu_new, relu, tanh };

// Rows are padded to a multiple of this, so that no product has a remainder of columns. In the padding floats are 0;
// bytes may be anything, and numbers up to a dword anything finite: the weights they meet are 0.
constexpr int kColumns = 64;
static inline int padded(int count) { return (count + kColumns - 1) / kColumns * kColumns; }

// What the next product takes: bytes, round(x / scale) + zero, clipped to 0..255, 0 of a NaN; numbers where scale is 0.
struct Quantizer {
    float scale;
    int32_t zero;
};

// What x and weights are in a product: uint8 and int8, four to a dword; numbers, as many as a dword holds; floats and
// int8, or both floats, one by one.
enum class Kind : int32_t { bytes, numbers, int8, floats };

// (x @ weight) * scale + bias, in float32 but for the sums of bytes, which are exact.
//   weights  [outputs / 64][dwords of inputs][64] dwords, one by one [outputs / 16][inputs][16]; padded by 0
//   start    int32 [outputs], of bytes what the sums begin with: minus the input's zero point times the column's sum
//   scale    float [outputs], of bytes the input's scale times the column's
struct Product {
    Kind kind;
    int inputs, outputs;
    const void* weights;
    const int32_t* start;
    const float* scale;
    const float* bias;
};

struct Norm {
    int width;
    float epsilon;
    const float* scale;
    const float* bias;
};

struct Embeddings {
    int width;
    const int8_t* words;       // [vocabulary, width], each row with a scale
    const float* word_scales;  // [vocabulary]
    const float* positions;    // [positions, width]
    const float* types;        // [types, width], null for none
};

struct Heads {
    int count, size, hidden;  // hidden = count * size
};

// Rows are padded as above: `width` floats, bytes or numbers lie padded(width) apart. Counts may be any from 1 on.
// Floats and numbers that are computed from a NaN are NaN, as their caller must see.
struct Kernels {
    const char* instructions;
    size_t number_bytes;  // of a number: 2 for bfloat16, 4 for float

    // Sums of a word's, a type's and a position's row, float [count, width].
    void (*embed)(const Embeddings&, const int32_t* ids, const int32_t* types, const int32_t* positions, int count,
                  float* rows);
    // LayerNormalization of float [count, width] in place, and the same for the next product unless `out` is null.
    void (*normalize)(const Norm&, float* rows, int count, Quantizer, void* out);
    // Products of bytes or numbers: as numbers; activated and for the next product; added to floats in place.
    void (*project)(const Product&, const void* rows, int count, void* out);
    void (*expand)(const Product&, const void* rows, int count, Activation, Quantizer, void* out);
    void (*add)(const Product&, const void* rows, int count, float* out);
    // Attention of one head in one pair: queries, keys and values as numbers [tokens, 3 * hidden] to what the next
    // product takes, [tokens, hidden], of which the head's columns are written, and by the last head the padding up to
    // a dword. `scratch` has attend_scratch(heads, tokens) bytes, on a multiple of 64.
    void (*attend)(const Heads&, const void* projected, int tokens, int head, Quantizer, void* context, void* scratch);
    size_t (*attend_scratch)(const Heads&, int tokens);
    // Product of floats [count, inputs] one by one, `stride` apart; written activated, or added to what is there.
    void (*linear)(const Product&, const float* rows, int64_t stride, int count, Activation, bool add, float* out,
                   int64_t out_stride);
    // Attention of one row in one pair: probes float [heads, hidden] with rows [tokens, hidden] to the mix of the rows
    // for each head, float [heads, hidden]. `scratch` has padded(tokens) floats.
    void (*attend_first)(const Heads&, const float* probes, const float* rows, int tokens, float* mixed,
                         float* scratch);
};

// gelu(x) = max(x, 0) - g(|x|), where g is a bump: here a cubic polynomial on each of 32 segments of [0, end], by
// powers of |x|. Beyond it is what it is at the end, 8e-7.
struct GeluTable {
    static constexpr int segments = 32;
    static constexpr float end = 5.12f;
    alignas(64) float coefficients[4][segments];
    GeluTable();  // of src/dispatch.cpp
};
extern const GeluTable kGelu;

#if defined(CROSSRANK_AVX512)
extern const Kernels kAvx512Vnni;
extern const Kernels kAvx512VnniBf16;
#endif

// The fastest that this processor and its system can run; null for none.
const Kernels* best_kernels();

}  // namespace crossrank
