// The kernels in plain C++: what they compute, to be read and compared with, not to be fast. With CROSSRANK_REFERENCE the
// library of the tests runs on them, on any processor.
#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "model.h"

namespace crossrank {

extern const Kernels kReference;

namespace {

float activated(Activation activation, float x) {
    switch (activation) {
        case Activation::identity: return x;
        case Activation::gelu: return 0.5f * x * (1.0f + std::erf(x * 0.70710678f));
        case Activation::gelu_new: return 0.5f * x * (1.0f + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
        case Activation::relu: return std::max(x, 0.0f);
        case Activation::tanh: return std::tanh(x);
    }
    return x;
}

uint8_t byte(Quantizer quantizer, float x) {
    const float steps = std::nearbyint(x * (1.0f / quantizer.scale)) + static_cast<float>(quantizer.zero);
    return steps >= 0.0f ? static_cast<uint8_t>(std::min(steps, 255.0f)) : 0;  // 0 of NaN too
}

// Writes what the next product takes: numbers are floats here.
void put(Quantizer quantizer, void* out, size_t at, float x) {
    if (quantizer.scale > 0.0f) static_cast<uint8_t*>(out)[at] = byte(quantizer, x);
    else static_cast<float*>(out)[at] = x;
}

void embed(const Embeddings& tables, const int32_t* ids, const int32_t* types, const int32_t* positions, int count,
           float* rows) {
    const int width = tables.width, stride = padded(width);
    for (int i = 0; i < count; i++) {
        const int8_t* word = tables.words + static_cast<size_t>(ids[i]) * width;
        const float* position = tables.positions + static_cast<size_t>(positions[i]) * width;
        const float* type = tables.types ? tables.types + static_cast<size_t>(types ? types[i] : 0) * width : nullptr;
        float* row = rows + static_cast<size_t>(i) * stride;
        for (int c = 0; c < stride; c++) {
            row[c] = c < width ? word[c] * tables.word_scales[ids[i]] + (type ? type[c] : 0.0f) + position[c] : 0.0f;
        }
    }
}

void normalize(const Norm& norm, float* rows, int count, Quantizer quantizer, void* out) {
    const int stride = padded(norm.width);
    for (int i = 0; i < count; i++) {
        float* row = rows + static_cast<size_t>(i) * stride;
        double sum = 0, squares = 0;
        for (int c = 0; c < norm.width; c++) sum += row[c];
        const double mean = sum / norm.width;
        for (int c = 0; c < norm.width; c++) squares += (row[c] - mean) * (row[c] - mean);
        const double inverse = 1 / std::sqrt(squares / norm.width + norm.epsilon);
        for (int c = 0; c < norm.width; c++) {
            row[c] = static_cast<float>((row[c] - mean) * inverse) * norm.scale[c] + norm.bias[c];
        }
        for (int c = norm.width; c < stride; c++) row[c] = 0.0f;
        for (int c = 0; out && c < norm.width; c++) put(quantizer, out, static_cast<size_t>(i) * stride + c, row[c]);
    }
}

float multiply(const Product& product, const void* rows, size_t row, int n) {
    const bool bytes = product.kind == Kind::bytes, alone = product.kind == Kind::int8 || product.kind == Kind::floats;
    const int deep = bytes ? 4 : 1, width = alone ? 16 : kColumns;
    const size_t dwords = (product.inputs + deep - 1) / deep, panel = (n / width * dwords * width + n % width) * deep;
    int32_t sum = product.start[n];
    float floats = 0.0f;
    for (int k = 0; k < product.inputs; k++) {
        const size_t at = panel + k / deep * width * deep + k % deep;
        const bool whole = bytes || product.kind == Kind::int8;
        const float weight = whole ? static_cast<const int8_t*>(product.weights)[at] : static_cast<const float*>(product.weights)[at];
        if (bytes) sum += static_cast<const uint8_t*>(rows)[row + k] * static_cast<int>(weight);
        else floats += static_cast<const float*>(rows)[row + k] * weight;
    }
    return (bytes ? static_cast<float>(sum) : floats) * product.scale[n] + product.bias[n];
}

// Calls write(row, column, product) for each.
template <class Write>
void products(const Product& product, const void* rows, int count, Write write) {
    const size_t stride = padded(product.inputs);
    for (int i = 0; i < count; i++) {
        for (int n = 0; n < product.outputs; n++) write(i, n, multiply(product, rows, i * stride, n));
    }
}

void project(const Product& product, const void* rows, int count, void* out) {
    const size_t stride = padded(product.outputs);
    products(product, rows, count, [&](int i, int n, float x) { static_cast<float*>(out)[i * stride + n] = x; });
}

void expand(const Product& product, const void* rows, int count, Activation activation, Quantizer quantizer, void* out) {
    const size_t stride = padded(product.outputs);
    products(product, rows, count,
             [&](int i, int n, float x) { put(quantizer, out, i * stride + n, activated(activation, x)); });
}

void add(const Product& product, const void* rows, int count, float* out) {
    const size_t stride = padded(product.outputs);
    products(product, rows, count, [&](int i, int n, float x) { out[i * stride + n] += x; });
}

// Scores in place as the weights of a mean.
void softmax(float* scores, int count) {
    const float largest = *std::max_element(scores, scores + count);
    float sum = 0.0f;
    for (int j = 0; j < count; j++) sum += scores[j] = std::exp(scores[j] - largest);
    for (int j = 0; j < count; j++) scores[j] /= sum;
}

size_t attend_scratch(const Heads&, int tokens) { return tokens * sizeof(float); }

void attend(const Heads& heads, const void* projected, int tokens, int head, Quantizer quantizer, void* context,
            void* scratch) {
    const size_t stride = padded(3 * heads.hidden), out_stride = padded(heads.hidden);
    const float* queries = static_cast<const float*>(projected) + head * heads.size;
    const float *keys = queries + heads.hidden, *values = keys + heads.hidden;
    const float scale = 1.0f / std::sqrt(static_cast<float>(heads.size));
    float* scores = static_cast<float*>(scratch);
    for (int i = 0; i < tokens; i++) {
        for (int j = 0; j < tokens; j++) {
            scores[j] = 0.0f;
            for (int d = 0; d < heads.size; d++) scores[j] += queries[i * stride + d] * keys[j * stride + d];
            scores[j] *= scale;
        }
        softmax(scores, tokens);
        for (int d = 0; d < heads.size; d++) {
            float mean = 0.0f;
            for (int j = 0; j < tokens; j++) mean += scores[j] * values[j * stride + d];
            put(quantizer, context, i * out_stride + head * heads.size + d, mean);
        }
    }
}

void linear(const Product& product, const float* rows, int64_t stride, int count, Activation activation, bool add,
            float* out, int64_t out_stride) {
    for (int i = 0; i < count; i++) {
        for (int n = 0; n < product.outputs; n++) {
            const float y = activated(activation, multiply(product, rows, i * stride, n));
            out[i * out_stride + n] = add ? out[i * out_stride + n] + y : y;
        }
    }
}

void attend_first(const Heads& heads, const float* probes, const float* rows, int tokens, float* mixed,
                  float* scratch) {
    const size_t stride = padded(heads.hidden);
    for (int head = 0; head < heads.count; head++) {
        for (int j = 0; j < tokens; j++) {
            scratch[j] = 0.0f;
            for (int c = 0; c < heads.hidden; c++) scratch[j] += probes[head * stride + c] * rows[j * stride + c];
        }
        softmax(scratch, tokens);
        for (int c = 0; c < heads.hidden; c++) {
            float mean = 0.0f;
            for (int j = 0; j < tokens; j++) mean += scratch[j] * rows[j * stride + c];
            mixed[head * stride + c] = mean;
        }
    }
}

}  // namespace

const Kernels kReference = {"reference", sizeof(float), embed,          normalize, project, expand,
                            add,         attend,        attend_scratch, linear,    attend_first};

#if defined(CROSSRANK_REFERENCE)
const Kernels* best_kernels() { return &kReference; }
#endif

}  // namespace crossrank

#if defined(CROSSRANK_REFERENCE)
// Holds a model's lock, as a thread may do that a forked child does not have, or lets it go.
extern "C" CROSSRANK_API void crossrank_hold(crossrank_model* model, int32_t held) {
    if (held) model->mutex.lock();
    else model->mutex.unlock();
}
#endif
