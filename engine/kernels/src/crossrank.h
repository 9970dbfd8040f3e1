/* crossrank-kernels: int8 cross-encoders of the BERT kind on x86-64, all of a model in one call. The whole ABI.
 *
 * The weights are the initializers of crossrank's own int8 ONNX graph, under their names in it. Sizes are read off
 * their shapes, so a caller says only what no shape says (`crossrank_settings`).
 *
 * Functions that can fail return a status and write a sentence into `error`, cut to `error_size` bytes and ended by 0.
 * Nothing aborts, throws, prints, or reads the environment. No threads are kept between calls, and no lock is waited
 * for, so a fork is harmless.
 */
#ifndef CROSSRANK_H
#define CROSSRANK_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define CROSSRANK_API __declspec(dllexport)
#else
#define CROSSRANK_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Changes with every change of what stands below; a caller that expects another must not call anything else. */
#define CROSSRANK_ABI 3
CROSSRANK_API int32_t crossrank_abi(void);

/* What the kernels use on this processor: "avx512-vnni avx512-bf16", "avx512-vnni", or "" where none can run. */
CROSSRANK_API const char *crossrank_instructions(void);

enum crossrank_status {
    CROSSRANK_OK = 0,
    CROSSRANK_INVALID = 1,      /* the arguments are wrong, or no kernel runs here; the sentence says what */
    CROSSRANK_OUT_OF_MEMORY = 2 /* try fewer tokens */
};

enum crossrank_dtype { CROSSRANK_FLOAT32 = 1, CROSSRANK_UINT8 = 2, CROSSRANK_INT8 = 3 }; /* as in ONNX */

/* An initializer: its name, ONNX type, shape, and values in C order, on a multiple of their own size. */
typedef struct crossrank_tensor {
    const char *name;
    const void *values;
    int64_t dims[4];
    int32_t rank;
    int32_t dtype;
} crossrank_tensor;

enum crossrank_activation {
    CROSSRANK_IDENTITY = 0, /* of a head alone, as the last */
    CROSSRANK_GELU = 1,
    CROSSRANK_GELU_NEW = 2, /* by tanh */
    CROSSRANK_RELU = 3,
    CROSSRANK_TANH = 4
};

/* What no shape says. `head_activation` is that behind head.dense, and of no matter without one. Tokens have the
 * positions 0, 1, ... where `pad_id` is negative; else, as in RoBERTa, those other than it count from pad_id + 1 and
 * it has its own number. */
typedef struct crossrank_settings {
    float epsilon;
    int32_t activation;
    int32_t head_activation;
    int32_t pad_id;
} crossrank_settings;

typedef struct crossrank_model crossrank_model;

/* A model of these initializers. Those that are not of the BERT kind are refused, and so are names that no such model
 * has. A layer without `query.int8` has its matrices in float, and is computed in bfloat16 where that is among the
 * instructions, else in float32. Weights are copied in the order that products want: 1 byte each for int8, 2 or 4 of such
 * layers, 4 of the last one; nothing of `tensors` is needed after. A refusal names every tensor that is missing, has
 * another shape, or belongs to no such model. */
CROSSRANK_API int32_t crossrank_open(const crossrank_tensor *tensors, int64_t count, const crossrank_settings *settings,
                                     crossrank_model **model, char *error, size_t error_size);

/* Sizes of an open model, for its caller's checks. */
typedef struct crossrank_shape {
    int32_t vocabulary, positions, types, layers, hidden, heads, intermediate, labels;
    int64_t bytes; /* of its weights */
} crossrank_shape;
CROSSRANK_API void crossrank_describe(const crossrank_model *model, crossrank_shape *shape);

/* Logits float [pairs, labels] of joined pairs: `ids` and `types` int32 [tokens], pair after pair, `lengths` int32
 * [pairs] whose sum is `tokens`. `types` may be NULL: all 0. A pair's logits are the same to the bit whatever the other
 * pairs are, and however many threads there are. Any number of callers may run one model at a time; each takes about
 * tokens * hidden * 12 bytes, or 20 without bfloat16, which the model keeps for the next unless they are more than 64
 * MiB, of 32 callers at most. `threads` is how many work on this call, the caller's own among them. */
CROSSRANK_API int32_t crossrank_run(crossrank_model *model, const int32_t *ids, const int32_t *types,
                                    const int32_t *lengths, int64_t pairs, int64_t tokens, int32_t threads,
                                    float *logits, char *error, size_t error_size);

/* Frees a model that no call runs; NULL is none. */
CROSSRANK_API void crossrank_close(crossrank_model *model);

#ifdef __cplusplus
}
#endif
#endif
