// The forward pass over a flat batch: which kernel runs on which rows.
//
// Rows are split between threads, each of which takes its own through a whole layer in blocks that stay in the second
// cache. Only attention looks at rows of others, so threads wait for each other before and after it. What a row is
// computed from, and in which order, depends on its pair alone.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <future>
#include <stdexcept>
#include <thread>

#include "model.h"

namespace crossrank {
namespace {

constexpr int kBlockRows = 384;
constexpr int kBlockPairs = 16;  // whose last layer is computed at a time
constexpr size_t kSpareBytes = size_t{64} << 20;
constexpr size_t kSpareBlocks = 32;
constexpr int64_t kMaxTokens = 1 << 24;  // with which all counts are far from overflowing
constexpr int kMaxThreads = 256;

// Runs what may throw; turns that into a status, and a sentence for the caller.
template <class Work>
int32_t guarded(char* error, size_t size, Work work) {
    try {
        work();
        return CROSSRANK_OK;
    } catch (const std::exception& failure) {
        const bool refused = dynamic_cast<const std::invalid_argument*>(&failure) != nullptr;
        const char* what = refused ? "" : "the memory does not suffice: ";
        if (error && size > 0) std::snprintf(error, size, "%s%s", what, failure.what());  // takes no memory
        return refused ? CROSSRANK_INVALID : CROSSRANK_OUT_OF_MEMORY;
    }
}

[[noreturn]] void refuse(const std::string& sentence) { throw std::invalid_argument(sentence); }

// All threads of a call wait for the last one.
class Barrier {
public:
    explicit Barrier(int threads) : threads_(threads) {}
    void expect(int threads) { threads_ = threads; }
    void wait() {
        if (threads_ == 1) return;
        const int round = round_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round_.load(std::memory_order_acquire) == round; spins++) {
            if (spins > 1000) std::this_thread::yield();
        }
    }

private:
    int threads_;
    std::atomic<int> arrived_{0}, round_{0};
};

struct Batch {
    const int32_t *ids, *types, *lengths;
    int pairs, tokens, longest;
};

// Where a thread's own scratch lies.
struct Own {
    float *apart, *row, *query, *probes, *mixed, *context, *wide_row, *scores;
    char *inputs, *wide, *attend;
};

class Pass {
public:
    Pass(crossrank_model& model, const Batch& batch, int threads)
        : model_(model), kernels_(*model.kernels), batch_(batch), threads_(threads), barrier_(threads),
          hidden_(padded(model.shape.hidden)), projected_(padded(3 * model.shape.hidden) * kernels_.number_bytes),
          own_(threads) {}

    // Bytes of scratch; lays it out from `start`, unless that is null.
    size_t lay_out(char* start) {
        size_t used = 0;
        auto take = [&](auto*& pointer, size_t count) {
            pointer = start ? reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(start + used) : nullptr;
            used += (count * sizeof(*pointer) + 63) / 64 * 64;
        };
        const size_t tokens = batch_.tokens, heads = model_.heads.count;
        const size_t block = std::min(batch_.tokens, kBlockRows), pairs = std::min(batch_.pairs, kBlockPairs);
        take(rows_, tokens * hidden_);
        take(contexts_, tokens * hidden_ * kernels_.number_bytes);
        take(projections_, tokens * projected_);
        take(positions_, tokens);
        take(starts_, batch_.pairs + 1);
        int apart = 0;
        for (const Layer& layer : model_.layers) apart = std::max(apart, layer.apart_up.outputs);
        const size_t wide = padded(model_.shape.intermediate);
        for (Own& own : own_) {
            take(own.attend, kernels_.attend_scratch(model_.heads, batch_.longest));
            take(own.inputs, block * hidden_ * kernels_.number_bytes);
            take(own.wide, block * wide * kernels_.number_bytes);
            take(own.apart, block * padded(apart));
            take(own.row, pairs * hidden_);
            take(own.query, pairs * hidden_);
            take(own.probes, pairs * heads * hidden_);
            take(own.mixed, pairs * heads * hidden_);
            take(own.context, pairs * hidden_);
            take(own.wide_row, pairs * wide);
            take(own.scores, padded(batch_.longest));
        }
        return used;
    }

    // Numbers the tokens, and refuses what is out of bounds.
    void number() {
        const crossrank_shape& shape = model_.shape;
        int at = 0;
        for (int p = 0; p < batch_.pairs; p++) {
            const auto check = [&](const char* what, int value, int limit) {
                if (value >= 0 && value < limit) return;
                refuse(what + (" " + std::to_string(value)) + " of token " + std::to_string(at) + " in pair " +
                       std::to_string(p) + " is out of bounds; 0 to " + std::to_string(limit - 1) + " are allowed");
            };
            starts_[p] = at;
            int next = model_.pad_id < 0 ? 0 : model_.pad_id + 1;
            for (const int end = at + batch_.lengths[p]; at < end; at++) {
                check("id", batch_.ids[at], shape.vocabulary);
                check("type", batch_.types ? batch_.types[at] : 0, std::max(shape.types, 1));
                positions_[at] = batch_.ids[at] == model_.pad_id ? model_.pad_id : next++;
                check("position", positions_[at], shape.positions);
            }
        }
        starts_[batch_.pairs] = at;
    }

    void run(float* logits) {
        std::vector<std::thread> others;
        others.reserve(threads_);
        std::promise<void> ready;  // they begin when it is known how many there are
        const std::shared_future<void> begin = ready.get_future().share();
        try {
            for (int t = 1; t < threads_; t++) others.emplace_back([=] { begin.wait(), work(t, logits); });
        } catch (const std::exception&) {  // the system gives no more threads: fewer do
            threads_ = static_cast<int>(others.size()) + 1;
            barrier_.expect(threads_);
        }
        ready.set_value();
        work(0, logits);
        for (std::thread& other : others) other.join();
    }

private:
    void work(int thread, float* logits) {
        const int first = share(batch_.tokens, thread), end = share(batch_.tokens, thread + 1);
        for (int i = first; i < end; i += kBlockRows) enter(own_[thread], i, std::min(kBlockRows, end - i));
        for (size_t index = 0; index < model_.layers.size(); index++) {
            barrier_.wait();
            attend(own_[thread], model_.layers[index], static_cast<int>(index));
            barrier_.wait();
            for (int i = first; i < end; i += kBlockRows) leave(own_[thread], index, i, std::min(kBlockRows, end - i));
        }
        barrier_.wait();
        const int last = share(batch_.pairs, thread + 1);
        for (int p = share(batch_.pairs, thread); p < last; p += kBlockPairs) {
            finish(own_[thread], p, std::min(kBlockPairs, last - p), logits);
        }
    }

    int share(int count, int thread) const { return static_cast<int>(static_cast<int64_t>(count) * thread / threads_); }

    // Embeddings, and the first layer's queries, keys and values.
    void enter(Own& own, int at, int count) {
        float* rows = rows_ + at * hidden_;
        kernels_.embed(model_.embeddings, batch_.ids + at, batch_.types ? batch_.types + at : nullptr, positions_ + at,
                       count, rows);
        project(own, 0, model_.embeddings_norm, at, count);
    }

    // Normalized rows, and of those a layer's queries, keys and values, unless it is the last.
    void project(Own& own, size_t index, const Norm& norm, int at, int count) {
        const Layer* layer = index < model_.layers.size() ? &model_.layers[index] : nullptr;
        kernels_.normalize(norm, rows_ + at * hidden_, count, layer ? layer->input : Quantizer{},
                           layer ? own.inputs : nullptr);
        if (layer) kernels_.project(layer->projections, own.inputs, count, projections_ + at * projected_);
    }

    // The contexts of a layer from a token on.
    char* contexts(const Layer& layer, int64_t at) const {
        return contexts_ + at * hidden_ * (layer.context.scale > 0.0f ? 1 : kernels_.number_bytes);
    }

    void attend(Own& own, const Layer& layer, int index) {
        const int heads = model_.heads.count;
        const int64_t tasks = int64_t{batch_.pairs} * heads;
        // Each layer counts on from where the one before ended, plus a task too many of each thread.
        const int64_t base = index * (tasks + threads_);
        for (int64_t task; (task = next_task_.fetch_add(1, std::memory_order_relaxed) - base) < tasks;) {
            const size_t pair = task / heads, at = starts_[pair];
            kernels_.attend(model_.heads, projections_ + at * projected_, batch_.lengths[pair],
                            static_cast<int>(task % heads), layer.context, contexts(layer, at), own.attend);
        }
    }

    // What of a layer is behind attention, and the next one's queries, keys and values.
    void leave(Own& own, size_t index, int at, int count) {
        const Layer& layer = model_.layers[index];
        float* rows = rows_ + at * hidden_;
        kernels_.add(layer.output, contexts(layer, at), count, rows);
        kernels_.normalize(layer.attention_norm, rows, count, layer.attended, own.inputs);
        kernels_.expand(layer.up, own.inputs, count, model_.activation, layer.expanded, own.wide);
        if (layer.apart_up.outputs > 0) {
            const int stride = padded(layer.apart_up.outputs);
            kernels_.linear(layer.apart_up, rows, hidden_, count, model_.activation, false, own.apart, stride);
            kernels_.linear(layer.apart_down, own.apart, stride, count, Activation::identity, true, rows, hidden_);
        }
        kernels_.add(layer.down, own.wide, count, rows);
        project(own, index + 1, layer.output_norm, at, count);
    }

    // The last layer and the head, of some pairs.
    void finish(Own& own, int first, int count, float* logits) {
        const LastLayer& last = model_.last;
        const Heads& heads = model_.heads;
        const int64_t by_head = heads.count * hidden_;
        for (int p = 0; p < count; p++) {
            std::memcpy(own.row + p * hidden_, rows_ + starts_[first + p] * hidden_, hidden_ * sizeof(float));
        }
        linear(last.query, own.row, hidden_, count, own.query, hidden_);
        for (int head = 0; head < heads.count; head++) {
            linear(last.keys[head], own.query + head * heads.size, hidden_, count, own.probes + head * hidden_, by_head);
        }
        for (int p = 0; p < count; p++) {
            kernels_.attend_first(heads, own.probes + p * by_head, rows_ + starts_[first + p] * hidden_,
                                  batch_.lengths[first + p], own.mixed + p * by_head, own.scores);
        }
        for (int head = 0; head < heads.count; head++) {
            linear(last.values[head], own.mixed + head * hidden_, by_head, count, own.context + head * heads.size, hidden_);
        }
        kernels_.linear(last.output, own.context, hidden_, count, Activation::identity, true, own.row, hidden_);
        kernels_.normalize(last.attention_norm, own.row, count, {}, nullptr);
        const int wide = padded(last.up.outputs);
        linear(last.up, own.row, hidden_, count, own.wide_row, wide, model_.activation);
        kernels_.linear(last.down, own.wide_row, wide, count, Activation::identity, true, own.row, hidden_);
        kernels_.normalize(last.output_norm, own.row, count, {}, nullptr);
        float* row = own.row;
        if (model_.dense_head) {
            linear(model_.head_dense, row, hidden_, count, own.query, hidden_, model_.head_activation);
            row = own.query;
        }
        const int labels = model_.shape.labels;
        linear(model_.classifier, row, hidden_, count, logits + static_cast<size_t>(first) * labels, labels);
    }

    void linear(const Product& product, const float* rows, int64_t stride, int count, float* out, int64_t out_stride,
                Activation activation = Activation::identity) {
        kernels_.linear(product, rows, stride, count, activation, false, out, out_stride);
    }

    crossrank_model& model_;
    const Kernels& kernels_;
    const Batch& batch_;
    int threads_;
    Barrier barrier_;
    std::atomic<int64_t> next_task_{0};
    const int64_t hidden_, projected_;  // how far rows and projections lie apart, the latter in bytes
    float* rows_ = nullptr;             // of the layers, [tokens, hidden]
    char *contexts_ = nullptr, *projections_ = nullptr;
    int32_t *positions_ = nullptr, *starts_ = nullptr;
    std::vector<Own> own_;
};

// The scratch of an earlier call if one has enough and can be had now; else a new one.
Block take_scratch(crossrank_model& model, size_t bytes) {
    {
        std::unique_lock<std::mutex> lock(model.mutex, std::try_to_lock);
        if (lock.owns_lock() && !model.spare.empty()) {
            Block block = std::move(model.spare.back());
            model.spare.pop_back();
            if (block.size() >= bytes) return block;
        }
    }
    return Block(bytes);
}

void run(crossrank_model& model, Batch batch, int64_t pairs, int64_t tokens, int threads, float* logits) {
    if (pairs < 0 || threads < 1 || pairs > tokens || tokens > kMaxTokens) {
        refuse("there are " + std::to_string(pairs) + " pairs of " + std::to_string(tokens) + " tokens for " +
               std::to_string(threads) + " threads");
    }
    int64_t sum = 0;
    for (int64_t p = 0; p < pairs; sum += batch.lengths[p++]) {
        batch.longest = std::max(batch.longest, batch.lengths[p]);
        if (batch.lengths[p] < 1) {
            refuse("pair " + std::to_string(p) + " has " + std::to_string(batch.lengths[p]) + " tokens");
        }
    }
    if (sum != tokens) {
        refuse("lengths add up to " + std::to_string(sum) + "; there are " + std::to_string(tokens) + " tokens");
    }
    if (pairs == 0) return;
    batch.pairs = static_cast<int>(pairs);
    batch.tokens = static_cast<int>(tokens);
    Pass pass(model, batch, std::min({threads, batch.tokens, kMaxThreads}));
    Block scratch = take_scratch(model, pass.lay_out(nullptr));
    pass.lay_out(scratch.data());
    pass.number();
    pass.run(logits);
    if (scratch.size() <= kSpareBytes) {
        std::unique_lock<std::mutex> lock(model.mutex, std::try_to_lock);
        const bool room = lock.owns_lock() && model.spare.size() < model.spare.capacity();
        if (room) model.spare.push_back(std::move(scratch));
    }
}

}  // namespace
}  // namespace crossrank

using namespace crossrank;

int32_t crossrank_abi() { return CROSSRANK_ABI; }

const char* crossrank_instructions() { return best_kernels() ? best_kernels()->instructions : ""; }

int32_t crossrank_open(const crossrank_tensor* tensors, int64_t count, const crossrank_settings* settings,
                       crossrank_model** model, char* error, size_t error_size) {
    *model = nullptr;
    return guarded(error, error_size, [&] {
        auto opened = std::make_unique<crossrank_model>();
        opened->kernels = best_kernels();
        if (!opened->kernels) refuse("the processor has no AVX-512 VNNI");
        opened->spare.reserve(kSpareBlocks);
        std::string sentence;
        for (const std::string& problem : read_model(*opened, tensors, count, *settings)) {
            sentence += (sentence.empty() ? "" : "; ") + problem;
        }
        if (!sentence.empty()) refuse(sentence);
        *model = opened.release();
    });
}

void crossrank_describe(const crossrank_model* model, crossrank_shape* shape) { *shape = model->shape; }

int32_t crossrank_run(crossrank_model* model, const int32_t* ids, const int32_t* types, const int32_t* lengths,
                      int64_t pairs, int64_t tokens, int32_t threads, float* logits, char* error, size_t error_size) {
    return guarded(error, error_size, [&] {
        run(*model, {ids, types, lengths, 0, 0, 0}, pairs, tokens, threads, logits);
    });
}

void crossrank_close(crossrank_model* model) { delete model; }
