// Compares every kernel with its reference: check <most tokens> <seed>
//
// What kernels read and write ends where a page begins that nobody may touch, so that one byte too far ends the program.
// Each line that is printed is a difference; the exit status is 1 if there was one.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels.h"

namespace crossrank {
extern const Kernels kReference;
}

using namespace crossrank;

namespace {

int failures = 0;
std::mt19937 random_numbers;

// An array whose end is the end of what may be touched.
template <class T>
class Guarded {
public:
    explicit Guarded(size_t count) : count_(count) {
        const size_t page = sysconf(_SC_PAGESIZE), bytes = count * sizeof(T);
        pages_ = (bytes + page - 1) / page * page;
        start_ = static_cast<char*>(mmap(nullptr, pages_ + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (start_ == MAP_FAILED || mprotect(start_ + pages_, page, PROT_NONE)) abort();
        all_ = pages_ + page;
        data_ = reinterpret_cast<T*>(start_ + pages_ - bytes);
    }
    Guarded(const Guarded& other) : Guarded(other.count_) { std::copy(other.begin(), other.end(), data_); }
    Guarded& operator=(const Guarded&) = delete;
    ~Guarded() { munmap(start_, all_); }
    T* begin() const { return data_; }
    T* end() const { return data_ + count_; }
    T& operator[](size_t i) const { return data_[i]; }
    size_t size() const { return count_; }

private:
    size_t count_, pages_, all_;
    char* start_;
    T* data_;
};

int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_numbers); }
float normal() { return std::normal_distribution<float>()(random_numbers); }

template <class T>
void fail(const char* kernel, const std::string& shape, size_t at, T ours, T reference) {
    if (failures++ < 20) {
        std::printf("%s %s: [%zu] is %g; %g expected\n", kernel, shape.c_str(), at, double(ours), double(reference));
    }
}

template <class T>
void compare(const char* kernel, const std::string& shape, const T* ours, const T* reference, size_t count, double tolerance) {
    for (size_t i = 0; i < count; i++) {
        const bool no_numbers = std::isnan(double(ours[i])) && std::isnan(double(reference[i]));
        if (no_numbers || ours[i] == reference[i]) continue;  // infinities too
        // Of bytes a number of steps, which rounding leads to; else a part of what is expected, or of 1.
        const double scale = sizeof(T) == 1 ? 1.0 : std::max(1.0, std::fabs(double(reference[i])));
        const double limit = tolerance * scale;
        if (!(std::fabs(double(ours[i]) - double(reference[i])) <= limit)) return fail(kernel, shape, i, ours[i], reference[i]);
    }
}

std::string shape_of(std::initializer_list<int> sizes) {
    std::string text;
    for (int size : sizes) text += (text.empty() ? "" : "x") + std::to_string(size);
    return text;
}

// Floats of rows with a padding of 0.
Guarded<float> rows_of(int count, int width, float scale = 1.0f) {
    Guarded<float> rows(static_cast<size_t>(count) * padded(width));
    for (size_t i = 0; i < rows.size(); i++) rows[i] = int(i % padded(width)) < width ? scale * normal() : 0.0f;
    return rows;
}

// A float that bfloat16 holds.
float short_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits &= 0xffff0000;
    std::memcpy(&value, &bits, 4);
    return value;
}

// Floats that bfloat16 holds as the kernels' numbers.
Guarded<uint8_t> numbers_of(const Kernels& kernels, const Guarded<float>& values) {
    Guarded<uint8_t> numbers(values.size() * kernels.number_bytes);
    for (size_t i = 0; i < values.size(); i++) {
        const char* from = reinterpret_cast<const char*>(values.begin() + i) + 4 - kernels.number_bytes;
        std::memcpy(numbers.begin() + i * kernels.number_bytes, from, kernels.number_bytes);
    }
    return numbers;
}

float as_float(const Kernels& kernels, const void* numbers, size_t at) {
    if (kernels.number_bytes == 4) return static_cast<const float*>(numbers)[at];
    const uint32_t bits = uint32_t(static_cast<const uint16_t*>(numbers)[at]) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// The same row by row must be the same to the bit.
template <class T, class Call>
void compare_alone(const char* kernel, const std::string& shape, const Guarded<T>& together, int count, Call call) {
    const size_t width = together.size() / count;
    for (int i = 0; i < count; i++) {
        Guarded<T> alone = call(i);
        if (std::memcmp(alone.begin(), together.begin() + i * width, width * sizeof(T))) {
            return fail(kernel, shape + " alone", i * width, alone[0], together[i * width]);
        }
    }
}

// What a product of bytes or numbers makes, as floats of the columns that hold something.
Guarded<float> made(const Kernels& kernels, const Guarded<uint8_t>& out, bool bytes, int width) {
    const size_t stride = padded(width), size = bytes ? out.size() : out.size() / kernels.number_bytes;
    Guarded<float> found(size);
    for (size_t i = 0; i < size; i++) {
        found[i] = i % stride >= size_t(width) ? 0.0f : bytes ? out[i] : as_float(kernels, out.begin(), i);
    }
    return found;
}

void check_products(const Kernels& ours, int count, int inputs, int outputs) {
    const bool bytes = pick(0, 1);
    const std::string shape = (bytes ? "bytes " : "numbers ") + shape_of({count, inputs, outputs});
    const int stride = padded(inputs), wide = padded(outputs);
    const int deep = bytes ? 4 : static_cast<int>(4 / ours.number_bytes), dwords = (inputs + deep - 1) / deep;
    const size_t unit = bytes ? 1 : ours.number_bytes, size = static_cast<size_t>(count) * wide;
    Guarded<uint8_t> weights(static_cast<size_t>(wide) * dwords * 4);
    Guarded<float> plain_weights(bytes ? 0 : static_cast<size_t>(wide) * inputs);  // as the reference takes them
    Guarded<int32_t> start(wide);
    Guarded<float> scale(wide), bias(wide);
    for (int n = 0; n < outputs; n++) {
        const size_t panel = static_cast<size_t>(n / kColumns) * kColumns;
        for (int k = 0; k < inputs; k++) {
            const size_t at = (panel * dwords + k / deep * kColumns + n % kColumns) * deep + k % deep;
            const float value = bytes ? pick(-127, 127) : short_float(0.1f * normal());
            if (bytes) weights[at] = static_cast<uint8_t>(static_cast<int8_t>(value));
            else plain_weights[panel * inputs + k * kColumns + n % kColumns] = value;
            const char* from = reinterpret_cast<const char*>(&value) + 4 - unit;
            if (!bytes) std::memcpy(weights.begin() + at * unit, from, unit);
        }
        if (bytes) start[n] = pick(-100000, 100000);
        scale[n] = bytes ? 1e-5f * pick(1, 20) : 1.0f, bias[n] = normal();
    }
    Guarded<float> floats(static_cast<size_t>(count) * stride);
    for (size_t i = 0; i < floats.size(); i++) floats[i] = int(i % stride) < inputs ? short_float(normal()) : 0.0f;
    Guarded<uint8_t> rows = bytes ? Guarded<uint8_t>(floats.size()) : numbers_of(ours, floats);
    if (bytes) for (uint8_t& byte : rows) byte = static_cast<uint8_t>(pick(0, 255));  // the padding too, on purpose
    const Product product = {bytes ? Kind::bytes : Kind::numbers, inputs, outputs, weights.begin(), start.begin(), scale.begin(), bias.begin()};
    Product plain = product;
    const void* plain_rows = rows.begin();
    if (!bytes) plain.weights = plain_weights.begin(), plain_rows = floats.begin();

    const double number_step = ours.number_bytes == 4 ? 1e-5 : 4e-3;
    Guarded<uint8_t> projected(size * ours.number_bytes), expected(size * sizeof(float));
    ours.project(product, rows.begin(), count, projected.begin());
    kReference.project(plain, plain_rows, count, expected.begin());
    compare("project", shape, made(ours, projected, false, outputs).begin(), made(kReference, expected, false, outputs).begin(),
            size, number_step);

    Guarded<float> sums = rows_of(count, outputs), expected_sums = sums;
    ours.add(product, rows.begin(), count, sums.begin());
    kReference.add(plain, plain_rows, count, expected_sums.begin());
    compare("add", shape, sums.begin(), expected_sums.begin(), size, 1e-5);

    const auto activation = static_cast<Activation>(pick(1, 3));
    const bool to_bytes = pick(0, 1);
    const Quantizer quantizer = {to_bytes ? 0.02f : 0.0f, to_bytes ? pick(0, 255) : 0};
    Guarded<uint8_t> expanded(size * (to_bytes ? 1 : ours.number_bytes)), expected_expanded(size * (to_bytes ? 1 : 4));
    ours.expand(product, rows.begin(), count, activation, quantizer, expanded.begin());
    kReference.expand(plain, plain_rows, count, activation, quantizer, expected_expanded.begin());
    compare("expand", shape, made(ours, expanded, to_bytes, outputs).begin(),
            made(kReference, expected_expanded, to_bytes, outputs).begin(), size, to_bytes ? 1 : number_step);
    for (size_t i = 0; !to_bytes && i < size; i++) {  // which the next product takes into its last dword
        const float padding = as_float(ours, expanded.begin(), i);
        if (int(i % wide) >= outputs && !(std::fabs(padding) < 1e-6f)) return fail("padding", shape, i, padding, 0.0f);
    }
    compare_alone("project", shape, projected, count, [&](int i) {
        Guarded<uint8_t> alone(wide * ours.number_bytes);
        ours.project(product, rows.begin() + static_cast<size_t>(i) * stride * unit, 1, alone.begin());
        return alone;
    });
}

void check_floats(const Kernels& ours, int count, int inputs, int outputs) {
    const std::string shape = shape_of({count, inputs, outputs});
    const bool int8 = pick(0, 1), add = pick(0, 1);
    const size_t size = static_cast<size_t>((outputs + 15) / 16) * inputs * 16;
    Guarded<int8_t> int8_weights(int8 ? size : 0);
    Guarded<float> float_weights(int8 ? 0 : size), scale(padded(outputs)), bias(padded(outputs));
    Guarded<int32_t> start(padded(outputs));
    for (int8_t& weight : int8_weights) weight = static_cast<int8_t>(pick(-127, 127));
    for (float& weight : float_weights) weight = 64 * normal();
    for (int n = 0; n < outputs; n++) scale[n] = 0.005f, bias[n] = normal();
    const void* weights = int8 ? static_cast<void*>(int8_weights.begin()) : float_weights.begin();
    const Product linear = {int8 ? Kind::int8 : Kind::floats, inputs, outputs, weights, start.begin(), scale.begin(), bias.begin()};
    const int stride = inputs + pick(0, 9), out_stride = outputs + pick(0, 9);
    Guarded<float> rows(static_cast<size_t>(count - 1) * stride + inputs);
    for (float& value : rows) value = normal();
    Guarded<float> out(static_cast<size_t>(count - 1) * out_stride + outputs);
    for (float& value : out) value = normal();
    Guarded<float> expected = out, before = out;
    const auto activation = static_cast<Activation>(pick(0, 4));
    ours.linear(linear, rows.begin(), stride, count, activation, add, out.begin(), out_stride);
    kReference.linear(linear, rows.begin(), stride, count, activation, add, expected.begin(), out_stride);
    compare("linear", shape, out.begin(), expected.begin(), out.size(), 2e-4);
    for (int i = 0; i < count; i++) {
        Guarded<float> alone(outputs);
        std::copy_n(before.begin() + static_cast<size_t>(i) * out_stride, outputs, alone.begin());
        ours.linear(linear, rows.begin() + static_cast<size_t>(i) * stride, stride, 1, activation, add, alone.begin(), outputs);
        if (std::memcmp(alone.begin(), out.begin() + static_cast<size_t>(i) * out_stride, outputs * sizeof(float))) {
            return fail("linear", shape + " alone", i, alone[0], out[static_cast<size_t>(i) * out_stride]);
        }
    }
}

void check_rows(const Kernels& ours, int count, int width) {
    const std::string shape = shape_of({count, width});
    const int vocabulary = pick(1, 50), positions = pick(1, 50), types = pick(0, 2);
    Guarded<int8_t> words(static_cast<size_t>(vocabulary) * width);
    Guarded<float> word_scales(vocabulary), position_table(static_cast<size_t>(positions) * width);
    Guarded<float> type_table(static_cast<size_t>(types) * width);
    for (int8_t& value : words) value = static_cast<int8_t>(pick(-127, 127));
    for (float& value : word_scales) value = 0.001f * pick(1, 9);
    for (float& value : position_table) value = normal();
    for (float& value : type_table) value = normal();
    Guarded<int32_t> ids(count), at(count), kinds(count);
    for (int i = 0; i < count; i++) {
        ids[i] = pick(0, vocabulary - 1), at[i] = pick(0, positions - 1), kinds[i] = types ? pick(0, types - 1) : 0;
    }
    const Embeddings tables = {width, words.begin(), word_scales.begin(), position_table.begin(),
                               types ? type_table.begin() : nullptr};
    const int32_t* kind = pick(0, 1) ? kinds.begin() : nullptr;
    const size_t size = static_cast<size_t>(count) * padded(width);
    Guarded<float> rows(size), expected(size);
    for (float& value : rows) value = NAN;
    ours.embed(tables, ids.begin(), kind, at.begin(), count, rows.begin());
    kReference.embed(tables, ids.begin(), kind, at.begin(), count, expected.begin());
    compare("embed", shape, rows.begin(), expected.begin(), size, 1e-6);

    Guarded<float> scale = rows_of(1, width), bias = rows_of(1, width);
    const Norm norm = {width, 1e-5f, scale.begin(), bias.begin()};
    const bool to_bytes = pick(0, 1);
    const Quantizer quantizer = {to_bytes ? 0.03f : 0.0f, to_bytes ? pick(0, 255) : 0};
    Guarded<uint8_t> out(size * (to_bytes ? 1 : ours.number_bytes)), expected_out(size * (to_bytes ? 1 : 4));
    ours.normalize(norm, rows.begin(), count, quantizer, out.begin());
    kReference.normalize(norm, expected.begin(), count, quantizer, expected_out.begin());
    compare("normalize", shape, rows.begin(), expected.begin(), size, 2e-4);  // of few numbers that are nearly equal
    compare(to_bytes ? "normalize to bytes" : "normalize to numbers", shape, made(ours, out, to_bytes, width).begin(),
            made(kReference, expected_out, to_bytes, width).begin(), size, to_bytes ? 1.0 : 4e-3);
}

void check_attention(const Kernels& ours, int tokens, const Heads& heads, bool compared) {
    const std::string shape = shape_of({tokens, heads.count, heads.size});
    const size_t stride = padded(3 * heads.hidden), out = padded(heads.hidden), size = tokens * stride;
    Guarded<float> numbers(size);
    const float sharp = pick(0, 1) ? 3.0f : 0.5f;
    // Of odd sizes a NaN reaches the head before too, in whose last dword it stands.
    const size_t spoiled = tokens % 7 || heads.size % 2 ? size : pick(0, static_cast<int>(size) - 1);
    for (size_t i = 0; i < size; i++) numbers[i] = i == spoiled ? NAN : short_float(compared ? sharp * normal() : 0.5f);
    Guarded<uint8_t> projected = numbers_of(ours, numbers);
    const bool to_bytes = pick(0, 1);
    const Quantizer quantizer = {to_bytes ? sharp / 32 : 0.0f, to_bytes ? 128 : 0};
    const size_t unit = to_bytes ? 1 : ours.number_bytes, plain_unit = to_bytes ? 1 : sizeof(float);
    Guarded<uint8_t> context(tokens * out * unit), expected(tokens * out * plain_unit);
    std::fill(context.begin(), context.end(), uint8_t{0xff});  // NaN
    Guarded<float> ours_scratch((ours.attend_scratch(heads, tokens) + 63) / 64 * 16);
    for (float& value : ours_scratch) value = NAN;
    Guarded<float> scratch(tokens);
    for (int head = 0; head < heads.count; head++) {
        ours.attend(heads, projected.begin(), tokens, head, quantizer, context.begin(), ours_scratch.begin());
        if (compared) kReference.attend(heads, numbers.begin(), tokens, head, quantizer, expected.begin(), scratch.begin());
    }
    if (!compared) return;
    compare("attend", shape, made(ours, context, to_bytes, heads.hidden).begin(),
            made(kReference, expected, to_bytes, heads.hidden).begin(), tokens * out, to_bytes ? 1.0 : 2e-2);
    for (int i = 0; !to_bytes && ours.number_bytes == 2 && spoiled == size && heads.hidden % 2 && i < tokens; i++) {
        const float padding = as_float(ours, context.begin(), i * out + heads.hidden);
        if (padding != 0.0f) return fail("padding", shape, i, padding, 0.0f);
    }
}

void check_first(const Kernels& ours, int tokens, const Heads& heads) {
    Guarded<float> probes = rows_of(heads.count, heads.hidden, 0.3f), rows = rows_of(tokens, heads.hidden);
    for (size_t i = 0; i < probes.size(); i++) {
        if (int(i % padded(heads.hidden)) >= heads.hidden) probes[i] = NAN;  // which products leave as it was
    }
    if (tokens % 7 == 0) rows[static_cast<size_t>(pick(0, tokens - 1)) * padded(heads.hidden)] = NAN;
    Guarded<float> mixed = rows_of(heads.count, heads.hidden), expected = mixed;
    Guarded<float> scratch(padded(tokens)), other = scratch;
    for (float& value : scratch) value = NAN;
    ours.attend_first(heads, probes.begin(), rows.begin(), tokens, mixed.begin(), scratch.begin());
    kReference.attend_first(heads, probes.begin(), rows.begin(), tokens, expected.begin(), other.begin());
    for (size_t i = 0; i < mixed.size(); i++) if (int(i % padded(heads.hidden)) >= heads.hidden) mixed[i] = expected[i];
    compare("attend_first", shape_of({tokens, heads.count, heads.hidden}), mixed.begin(), expected.begin(), mixed.size(), 1e-4);
}

void check_gelu(const Kernels& ours) {
    const float one[16] = {1.0f};
    const float scale[64] = {1.0f}, bias[64] = {};
    const int32_t start[64] = {};
    const Product identity = {Kind::floats, 1, 1, one, start, scale, bias};
    for (double at = -40; at < 40; at += 0.0007 + 1e-4 * std::fabs(at)) {
        const float x = static_cast<float>(at);
        float y;
        ours.linear(identity, &x, 1, 1, Activation::gelu, false, &y, 1);
        const float expected = static_cast<float>(0.5 * x * std::erfc(-x / std::sqrt(2.0)));
        compare("gelu", std::to_string(at), &y, &expected, 1, 1e-6);
    }
}

// What is no number, and numbers that no byte is near.
void check_extremes(const Kernels& ours) {
    constexpr int count = 7;
    const float extremes[count] = {NAN, INFINITY, -INFINITY, 3e9f, -3e9f, 1e38f, -1e38f};
    const float one[16] = {1.0f}, scale[64] = {1.0f}, none[64] = {};
    const int32_t start[kColumns] = {};
    const Product identity = {Kind::floats, 1, 1, one, start, scale, none};
    for (const Activation activation : {Activation::identity, Activation::gelu, Activation::gelu_new, Activation::relu,
                                        Activation::tanh}) {
        for (const float x : extremes) {
            // Their definition multiplies infinity by 0 here.
            if (x < 0 && (activation == Activation::gelu || activation == Activation::gelu_new)) continue;
            float y, expected;
            ours.linear(identity, &x, 1, 1, activation, false, &y, 1);
            kReference.linear(identity, &x, 1, 1, activation, false, &expected, 1);
            compare("activation", std::to_string(int(activation)) + " of " + std::to_string(x), &y, &expected, 1, 1e-5);
        }
    }
    alignas(64) const int8_t weights[4 * kColumns] = {};
    const uint8_t row[kColumns] = {};
    float bias[kColumns] = {};
    std::copy_n(extremes, count, bias);
    const Product constant = {Kind::bytes, 1, count, weights, start, none, bias};
    uint8_t bytes[kColumns], expected_bytes[kColumns];
    ours.expand(constant, row, 1, Activation::relu, {0.02f, 100}, bytes);
    kReference.expand(constant, row, 1, Activation::relu, {0.02f, 100}, expected_bytes);
    compare("expand", "extremes", bytes, expected_bytes, count, 0);
    float projected[kColumns], floats[kColumns], expected[kColumns];
    ours.project(constant, row, 1, projected);
    kReference.project(constant, row, 1, expected);
    for (int i = 0; i < count; i++) floats[i] = as_float(ours, projected, i);
    compare("project", "extremes", floats, expected, count, 4e-3);

    const Norm norm = {count, 1e-5f, none, bias};
    for (const float first : {1.0f, NAN}) {
        float rows[kColumns] = {first, 2.0f}, expected_rows[kColumns] = {first, 2.0f};
        ours.normalize(norm, rows, 1, {0.03f, 10}, bytes);
        kReference.normalize(norm, expected_rows, 1, {0.03f, 10}, expected_bytes);
        compare("normalize", "extremes", rows, expected_rows, count, 1e-5);
        compare("normalize to bytes", "extremes", bytes, expected_bytes, count, 0);
    }
}

}  // namespace

int main(int count, char** arguments) {
    const int longest = count > 1 ? std::atoi(arguments[1]) : 128;
    random_numbers.seed(count > 2 ? std::atoi(arguments[2]) : 0);
    std::vector<const Kernels*> tables;
    if (best_kernels() == nullptr) return std::puts("no kernels for this processor"), 2;
    tables.push_back(&kAvx512Vnni);
    if (best_kernels() != tables[0]) tables.push_back(best_kernels());
    const Heads kinds[] = {{2, 32, 64}, {1, 64, 64}, {3, 26, 78}, {5, 3, 15}, {1, 128, 128}, {2, 17, 34}, {1, 96, 96}};
    for (const Kernels* table : tables) {
        std::printf("%s\n", table->instructions);
        check_gelu(*table);
        check_extremes(*table);
        for (int i = 0; i < 90; i++) {
            check_products(*table, pick(1, 40), pick(1, 700), pick(1, 300));
            check_floats(*table, pick(1, 20), pick(1, 400), pick(1, 300));
            check_rows(*table, pick(1, 9), pick(2, 400));
        }
        for (int tokens = 1; tokens <= longest; tokens++) {
            check_attention(*table, tokens, kinds[tokens % 3], true);
            check_attention(*table, tokens, kinds[pick(0, 6)], true);
            check_first(*table, tokens, kinds[pick(0, 6)]);
        }
        for (int most = 1024; most <= 8192; most *= 2) {
            for (int i = 0; i < 2; i++) check_attention(*table, most - pick(0, most / 2), kinds[pick(0, 6)], false);
        }
        check_attention(*table, 8192, kinds[1], false);
        check_first(*table, 8192, kinds[2]);
    }
    return failures > 0;
}
