// A model: its weights as the kernels want them, read from the initializers of an int8 graph.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "crossrank.h"
#include "kernels.h"

namespace crossrank {

// Memory on a multiple of 64 bytes, zero at first.
class Block {
public:
    explicit Block(size_t bytes);  // throws std::bad_alloc
    char* data() const { return start_; }
    size_t size() const { return size_; }

private:
    size_t size_;
    std::unique_ptr<char[]> memory_;
    char* start_;
};

struct Layer {
    Quantizer input, context, attended, expanded;  // of what the products below get: all of one kind
    Product projections, output, up, down;
    Norm attention_norm, output_norm;
    Product apart_up, apart_down;  // of the feed-forward's units that are computed in float; none has no outputs
};

// The last layer, in float, of the first row of each pair alone. A query is taken through the keys' weights, so that it
// meets the rows themselves, and the values' weights are applied to a mean of rows.
struct LastLayer {
    Product query;                // with the scale of scores in it
    std::vector<Product> keys;    // of each head, [size, hidden]
    std::vector<Product> values;  // of each head, [hidden, size]
    Product output, up, down;
    Norm attention_norm, output_norm;
};

}  // namespace crossrank

struct crossrank_model {
    const crossrank::Kernels* kernels = nullptr;
    crossrank_shape shape = {};
    int pad_id = -1;
    crossrank::Activation activation = {}, head_activation = {};
    crossrank::Heads heads = {};
    crossrank::Embeddings embeddings = {};
    crossrank::Norm embeddings_norm = {};
    std::vector<crossrank::Layer> layers;
    crossrank::LastLayer last;
    bool dense_head = false;
    crossrank::Product head_dense = {}, classifier = {};
    std::vector<crossrank::Block> memory;  // of the weights

    std::mutex mutex;  // of what follows; never waited for, since in a forked child it may be held forever
    std::vector<crossrank::Block> spare;  // scratch of calls that have ended, as much as there is room for
};

namespace crossrank {

// Fills a model; returns what is wrong, a line each.
std::vector<std::string> read_model(crossrank_model&, const crossrank_tensor* tensors, int64_t count,
                                    const crossrank_settings&);

}  // namespace crossrank
