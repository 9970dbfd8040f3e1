#include "model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

namespace crossrank {

Block::Block(size_t bytes) : size_(bytes), memory_(new char[bytes + 64]()) {
    start_ = memory_.get() + (64 - reinterpret_cast<uintptr_t>(memory_.get()) % 64) % 64;
}

namespace {

using Dims = std::vector<int64_t>;

std::string text(const Dims& dims) {
    std::string result = "[";
    for (size_t i = 0; i < dims.size(); i++) result += (i ? ", " : "") + std::to_string(dims[i]);
    return result + "]";
}

// A matrix as it is stored, int8 with a scale per column, or float; and what is added to its products, or null.
struct Matrix {
    const int8_t* int8 = nullptr;
    const float* values = nullptr;
    const float* scales = nullptr;
    const float* bias = nullptr;

    explicit operator bool() const { return int8 || values; }
    float at(size_t i, int column) const { return int8 ? int8[i] * scales[column] : values[i]; }
    Matrix part(size_t index, size_t rows, size_t columns) const {
        Matrix result = *this;
        if (int8) result.int8 += index * rows * columns, result.scales += index * columns;
        else result.values += index * rows * columns;
        if (bias) result.bias += index * columns;
        return result;
    }
};

// Where weight [k, n] lies in panels [columns / width][inputs / deep][width][deep].
size_t place(int k, int n, int inputs, int width, int deep) {
    const size_t panel = static_cast<size_t>(n / width) * ((inputs + deep - 1) / deep) + k / deep;
    return (panel * width + n % width) * deep + k % deep;
}

// Writes a number of 2 or 4 bytes.
void write_number(char* to, float value, size_t bytes) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    if (bytes == 2) bits = std::isnan(value) ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to the nearest
    std::memcpy(to, &bits, bytes);
}

class Reader {
public:
    Reader(const crossrank_tensor* tensors, int64_t count, crossrank_model& model)
        : number_bytes_(model.kernels->number_bytes), memory_(model.memory) {
        for (int64_t i = 0; i < count; i++) tensors_.emplace(tensors[i].name, &tensors[i]);
    }

    std::vector<std::string> problems;

    bool has(const std::string& name) const { return tensors_.count(name) > 0; }
    bool has_matrix(const std::string& name) const { return has(name) || has(name + ".int8"); }

    // Size along an axis, 0 of a tensor that is missing or has fewer.
    int size(const std::string& name, int axis) const {
        auto found = tensors_.find(name);
        if (found == tensors_.end() || axis >= found->second->rank) return 0;
        const int64_t size = found->second->dims[axis];
        return size > 0 && size <= INT32_MAX / kColumns ? static_cast<int>(size) : 0;
    }
    int matrix_size(const std::string& name, int axis) const { return size(has(name) ? name : name + ".int8", axis); }

    // The values of a tensor of this type and shape, or null, with a problem noted.
    template <class T>
    const T* get(const std::string& name, const Dims& dims, bool optional = false) {
        auto found = tensors_.find(name);
        if (found == tensors_.end()) {
            if (!optional) problems.push_back(name + " is missing");
            return nullptr;
        }
        used_.insert(name);
        const crossrank_tensor& tensor = *found->second;
        const int32_t dtype = std::is_same<T, float>::value    ? CROSSRANK_FLOAT32
                              : std::is_same<T, int8_t>::value ? CROSSRANK_INT8
                                                               : CROSSRANK_UINT8;
        const bool ranked = tensor.rank >= 0 && tensor.rank <= 4;
        const Dims given(tensor.dims, tensor.dims + (ranked ? tensor.rank : 0));
        if (!ranked || given != dims || tensor.dtype != dtype || !tensor.values) {
            problems.push_back(name + " has shape " + text(given) + " and type " + std::to_string(tensor.dtype) +
                               "; " + text(dims) + " and " + std::to_string(dtype) + " expected");
            return nullptr;
        }
        return static_cast<const T*>(tensor.values);
    }

    // A matrix [..., rows, columns] with scales [..., 1, columns], or those of bytes [columns].
    Matrix matrix(const std::string& name, Dims dims, bool bytes = false) {
        Matrix result;
        if (has(name) && !bytes) {
            result.values = get<float>(name, dims);
            return result;
        }
        result.int8 = get<int8_t>(name + ".int8", dims);
        dims[dims.size() - 2] = 1;
        result.scales = get<float>(name + ".scales", bytes ? Dims{dims.back()} : dims);
        return result.scales ? result : Matrix();
    }

    template <class T>
    T* make(size_t count) {
        memory_.emplace_back(count * sizeof(T));
        return reinterpret_cast<T*>(memory_.back().data());
    }

    // A vector copied, padded by 0; zeros where it is null.
    const float* vector(const float* values, int count, float factor = 1.0f) {
        float* result = make<float>(padded(count));
        for (int i = 0; values && i < count; i++) result[i] = values[i] * factor;
        return result;
    }

    Norm norm(const std::string& name, int width, float epsilon) {
        return {width, epsilon, vector(get<float>(name + ".scale", {width}), width),
                vector(get<float>(name + ".bias", {width}), width)};
    }

    // Matrices of one input beside each other as products take them; `factor` scales what comes of them. Nothing where
    // one is missing: its sizes may be those of nothing in memory, here and below.
    Product pack(const std::vector<Matrix>& matrices, int inputs, int outputs, Kind kind, Quantizer input = {},
                 float factor = 1.0f) {
        for (const Matrix& matrix : matrices) if (!matrix) return {};
        const bool bytes = kind == Kind::bytes, numbers = kind == Kind::numbers, whole = bytes || kind == Kind::int8;
        const size_t size = whole ? 1 : numbers ? number_bytes_ : sizeof(float);
        const int all = static_cast<int>(matrices.size()) * outputs, width = bytes || numbers ? kColumns : 16;
        const int deep = bytes ? 4 : numbers ? static_cast<int>(4 / size) : 1;
        char* weights = make<char>(place(0, (all + width - 1) / width * width, inputs, width, deep) * size);
        int32_t* start = make<int32_t>(padded(all));
        float *scale = make<float>(padded(all)), *bias = make<float>(padded(all));
        int n = 0;
        for (const Matrix& matrix : matrices) {
            for (int c = 0; c < outputs; c++, n++) {
                for (int k = 0; k < inputs; k++) {
                    const size_t from = static_cast<size_t>(k) * outputs + c, to = place(k, n, inputs, width, deep);
                    if (whole) weights[to] = matrix.int8[from], start[n] -= input.zero * matrix.int8[from];
                    else write_number(weights + to * size, matrix.at(from, c), size);
                }
                scale[n] = factor * (bytes ? input.scale : 1.0f) * (whole ? matrix.scales[c] : 1.0f);
                bias[n] = matrix.bias ? matrix.bias[c] * factor : 0.0f;
            }
        }
        return {kind, inputs, all, weights, start, scale, bias};
    }
    Product pack(const Matrix& matrix, int inputs, int outputs, float factor = 1.0f) {
        return pack({matrix}, inputs, outputs, matrix.int8 ? Kind::int8 : Kind::floats, {}, factor);
    }

    Product linear(const std::string& name, int inputs, int outputs, float factor = 1.0f) {
        Matrix weight = matrix(name + ".weight", {inputs, outputs});
        weight.bias = get<float>(name + ".bias", {outputs}, true);
        return pack(weight, inputs, outputs, factor);
    }

    Quantizer quantizer(const std::string& point) {
        const float* scale = get<float>(point + ".scale", {});
        const uint8_t* zero = get<uint8_t>(point + ".zero_point", {});
        const bool valid = scale && *scale > 0.0f && std::isfinite(*scale);
        if (scale && !valid) problems.push_back(point + ".scale is not above 0");
        return {valid ? *scale : 1.0f, zero ? *zero : 0};
    }

    // Matrices of one input beside each other: in bytes, or as numbers where the input is.
    Product product(const std::vector<std::string>& names, int inputs, int outputs, Quantizer input) {
        const bool bytes = input.scale > 0.0f;
        std::vector<Matrix> matrices;
        for (const std::string& name : names) {
            matrices.push_back(matrix(bytes ? name : name + ".weight", {inputs, outputs}, bytes));
            matrices.back().bias = get<float>(name + ".bias", {outputs}, true);
        }
        return pack(matrices, inputs, outputs, bytes ? Kind::bytes : Kind::numbers, input);
    }

    // A table of rows in float.
    const float* table(const std::string& name, int rows, int width) {
        const Matrix stored = matrix(name, {rows, width});
        if (!stored) return nullptr;
        float* result = make<float>(static_cast<size_t>(rows) * width);
        for (size_t i = 0; i < static_cast<size_t>(rows) * width; i++) result[i] = stored.at(i, i % width);
        return result;
    }

    // What a model of another kind has, and would be left out here. Names of mere sizes are the graph's own.
    void refuse_others() {
        const char* sizes[] = {"integers_", "int64_", "axis_", "scalar_", "first_row"};
        for (const auto& [name, tensor] : tensors_) {
            bool known = used_.count(name) > 0;
            for (const char* prefix : sizes) known = known || name.rfind(prefix, 0) == 0;
            if (!known) problems.push_back(name + " is none of a model of the BERT kind");
        }
    }

private:
    std::map<std::string, const crossrank_tensor*> tensors_;
    std::set<std::string> used_;
    const size_t number_bytes_;
    std::vector<Block>& memory_;
};

Layer read_layer(Reader& reader, const std::string& at, int hidden, int units, int apart, float epsilon) {
    Layer layer = {};
    if (reader.has(at + "query.int8")) {  // else the quantizers say that all is in numbers
        layer.input = reader.quantizer(at + "attention");
        layer.context = reader.quantizer(at + "output");
        layer.attended = reader.quantizer(at + "up");
        layer.expanded = reader.quantizer(at + "down");
    }
    layer.projections = reader.product({at + "query", at + "key", at + "value"}, hidden, hidden, layer.input);
    layer.output = reader.product({at + "output"}, hidden, hidden, layer.context);
    layer.up = reader.product({at + "up"}, hidden, units, layer.attended);
    layer.down = reader.product({at + "down"}, units, hidden, layer.expanded);
    layer.attention_norm = reader.norm(at + "attention_norm", hidden, epsilon);
    layer.output_norm = reader.norm(at + "output_norm", hidden, epsilon);
    if (apart > 0) layer.apart_up = reader.linear(at + "up.apart", hidden, apart);
    if (apart > 0) layer.apart_down = reader.linear(at + "down.apart", apart, hidden);
    return layer;
}

LastLayer read_last(Reader& reader, const std::string& at, const Heads& heads, int intermediate, float epsilon) {
    LastLayer last;
    const int count = heads.count, size = heads.size, hidden = heads.hidden;
    last.query = reader.linear(at + "query", hidden, hidden, 1.0f / std::sqrt(static_cast<float>(size)));
    const Matrix keys = reader.matrix(at + "key.per_head", {count, size, hidden});
    Matrix values = reader.matrix(at + "value.per_head", {count, hidden, size});
    values.bias = reader.get<float>(at + "value.bias", {hidden}, true);
    for (int head = 0; keys && values && head < count; head++) {
        last.keys.push_back(reader.pack(keys.part(head, size, hidden), size, hidden));
        last.values.push_back(reader.pack(values.part(head, hidden, size), hidden, size));
    }
    last.output = reader.linear(at + "output", hidden, hidden);
    last.up = reader.linear(at + "up", hidden, intermediate);
    last.down = reader.linear(at + "down", intermediate, hidden);
    last.attention_norm = reader.norm(at + "attention_norm", hidden, epsilon);
    last.output_norm = reader.norm(at + "output_norm", hidden, epsilon);
    return last;
}

}  // namespace

std::vector<std::string> read_model(crossrank_model& model, const crossrank_tensor* tensors, int64_t count,
                                    const crossrank_settings& settings) {
    Reader reader(tensors, count, model);
    std::vector<std::string>& problems = reader.problems;
    crossrank_shape& shape = model.shape;
    if (!(settings.epsilon > 0.0f && settings.epsilon < 1.0f)) problems.push_back("epsilon is not between 0 and 1");
    if (settings.activation < CROSSRANK_GELU || settings.activation > CROSSRANK_RELU) {
        problems.push_back("activation " + std::to_string(settings.activation) + " is none of 1 to 3");
    }
    if (settings.head_activation < CROSSRANK_IDENTITY || settings.head_activation > CROSSRANK_TANH) {
        problems.push_back("head_activation " + std::to_string(settings.head_activation) + " is none of 0 to 4");
    }
    model.activation = static_cast<Activation>(settings.activation);
    model.head_activation = static_cast<Activation>(settings.head_activation);
    model.pad_id = settings.pad_id;

    std::string last = "layer.0.";
    while (!reader.has_matrix(last + "key.per_head") && reader.has(last + "attention_norm.scale")) {
        last = "layer." + std::to_string(++shape.layers) + ".";
    }
    shape.vocabulary = reader.size("embeddings.words.int8", 0);
    shape.positions = reader.matrix_size("embeddings.positions", 0);
    shape.types = reader.matrix_size("embeddings.types", 0);
    shape.heads = reader.matrix_size(last + "key.per_head", 0);
    const int size = reader.matrix_size(last + "key.per_head", 1);
    shape.hidden = reader.matrix_size(last + "key.per_head", 2);
    shape.intermediate = reader.matrix_size(last + "up.weight", 1);
    shape.labels = reader.matrix_size("head.classifier.weight", 1);
    const std::pair<const char*, int> sizes[] = {
        {"embeddings.words.int8", shape.vocabulary}, {"embeddings.positions", shape.positions},
        {"key.per_head of the last layer", size},    {"up.weight of the last layer", shape.intermediate},
        {"head.classifier.weight", shape.labels},
    };
    for (const auto& [name, value] : sizes) {
        if (value == 0) problems.push_back(std::string(name) + " is missing or no matrix");
    }
    // Not 64-bit: sums of bytes below are int32, and 255 * 128 * 65536 fills them.
    if (shape.hidden > 32768 || shape.intermediate > 32768) problems.push_back("layers are wider than 32768");
    if (static_cast<int64_t>(shape.heads) * size != shape.hidden) {
        problems.push_back(last + "key.per_head has heads that are not as wide as the model");
    }
    if (settings.pad_id >= shape.positions) {
        problems.push_back("pad_id " + std::to_string(settings.pad_id) + " leaves no position behind it");
    }
    if (!problems.empty()) return problems;  // without sizes nothing more can be said
    model.heads = {shape.heads, size, shape.hidden};

    const int hidden = shape.hidden;
    const float* word_scales = reader.get<float>("embeddings.words.scales", {shape.vocabulary, 1});
    const int8_t* words = reader.get<int8_t>("embeddings.words.int8", {shape.vocabulary, hidden});
    const size_t word_bytes = words ? static_cast<size_t>(shape.vocabulary) * hidden : 0;
    int8_t* table = reader.make<int8_t>(word_bytes);
    std::copy_n(words, word_bytes, table);
    model.embeddings = {hidden, table, word_scales ? reader.vector(word_scales, shape.vocabulary) : nullptr,
                        reader.table("embeddings.positions", shape.positions, hidden),
                        shape.types ? reader.table("embeddings.types", shape.types, hidden) : nullptr};
    model.embeddings_norm = reader.norm("embeddings.norm", hidden, settings.epsilon);
    for (int i = 0; i < shape.layers; i++) {
        const std::string at = "layer." + std::to_string(i) + ".";
        const int apart = reader.matrix_size(at + "up.apart.weight", 1);
        if (apart >= shape.intermediate) problems.push_back(at + "up.apart.weight has all units");
        else model.layers.push_back(read_layer(reader, at, hidden, shape.intermediate - apart, apart, settings.epsilon));
    }
    model.last = read_last(reader, last, model.heads, shape.intermediate, settings.epsilon);
    model.dense_head = reader.has_matrix("head.dense.weight");
    if (model.dense_head) model.head_dense = reader.linear("head.dense", hidden, hidden);
    model.classifier = reader.linear("head.classifier", hidden, shape.labels);
    reader.refuse_others();
    for (const Block& block : model.memory) shape.bytes += static_cast<int64_t>(block.size());
    return problems;
}

}  // namespace crossrank
