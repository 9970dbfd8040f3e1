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

// Rows of numbers are padded to a multiple of this, so that no product has a remainder of columns. Floats of the
// padding are 0; bytes there may be anything, since the weights they meet are 0.
constexpr int kColumns = 64;
static inline int padded(int count) { return (count + kColumns - 1) / kColumns * kColumns; }

// A float as a byte: round(x / scale) + zero, clipped to 0..255; 0 of a NaN.
struct Quantizer {
    float scale;
    int32_t zero;
};

// x @ weight + bias of bytes x, exact in int32 up to the last step.
//   weights  int8 [outputs / 64][inputs / 4][64][4], padded by 0
//   start    int32 [outputs], what the sums begin with: minus the input's zero point times the column's sum
//   scale    float [outputs], the input's scale times the column's
struct Int8Linear {
    int inputs, outputs;
    const int8_t* weights;
    const int32_t* start;
    const float* scale;
    const float* bias;
};

// x @ (weight * scale) + bias of floats x; the weight is int8 or float, the other pointer null.
//   weights  [outputs / 16][inputs][16], padded by 0
struct Linear {
    int inputs, outputs;
    const int8_t* int8_weights;
    const float* float_weights;
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

// Rows are padded as above: floats and bytes of `width` numbers lie padded(width) apart. Counts may be any from 1 on.
// Floats that are computed from a NaN are NaN, as their caller must see.
struct Kernels {
    const char* instructions;
    size_t projected_bytes;  // of a number that `project` gives and `attend` takes

    // Sums of a word's, a type's and a position's row, float [count, width].
    void (*embed)(const Embeddings&, const int32_t* ids, const int32_t* types, const int32_t* positions, int count,
                  float* rows);
    // LayerNormalization of float [count, width] in place, and the same as bytes unless `bytes` is null.
    void (*normalize)(const Norm&, float* rows, int count, Quantizer, uint8_t* bytes);
    // Products of bytes: as attention takes them; activated and as bytes again; added to floats in place.
    void (*project)(const Int8Linear&, const uint8_t* rows, int count, void* out);
    void (*expand)(const Int8Linear&, const uint8_t* rows, int count, Activation, Quantizer, uint8_t* out);
    void (*add)(const Int8Linear&, const uint8_t* rows, int count, float* out);
    // Attention of one head in one pair: queries, keys and values [tokens, 3 * hidden] to bytes [tokens, hidden], of
    // which the head's columns are written. `scratch` has attend_scratch(heads, tokens) bytes, on a multiple of 64.
    void (*attend)(const Heads&, const void* projected, int tokens, int head, Quantizer, uint8_t* context,
                   void* scratch);
    size_t (*attend_scratch)(const Heads&, int tokens);
    // Product of floats [count, inputs], `stride` apart; written activated, or added to what is there.
    void (*linear)(const Linear&, const float* rows, int64_t stride, int count, Activation, bool add, float* out,
                   int64_t out_stride);
    // Attention of one row in one pair: probes float [heads, hidden] with rows [tokens, hidden] to the mix of the rows
    // for each head, float [heads, hidden]. `scratch` has heads * padded(tokens) floats.
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
