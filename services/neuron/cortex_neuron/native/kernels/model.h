// What Python says of a model and of a step, by ctypes: plain C structures, the same as those of native/library.py.
#pragma once

#include "weights.h"

namespace cortex {

enum Activation : int32_t { kSilu = 0, kGelu = 1 };

extern "C" {

struct CortexLayer {
    const float *input_norm, *output_norm;     // [hidden], before attention and before the feed-forward part
    const float *attention_norm, *inner_norm;  // [hidden], of what these two answer, or null
    const float *query_norm, *key_norm;        // [head size], or null
    Weight query, key, value, output;
    Weight router;          // [experts][hidden], or of no rows: then gate, up and down are the only ones
    Weight gate, up, down;  // those of all experts one after the other
    int32_t window;    // positions a query sees, itself included; 0: all
    int32_t rotation;  // which of the step's turns q and k, or -1

    int experts() const { return router.rows; }
    int inner() const { return down.columns; }
};

struct CortexModel {
    int32_t num_layers, hidden, heads, kv_heads, head_size, rotary;
    int32_t chosen_experts, whole_shares;  // of a row; whether their shares are made to add up to 1
    int32_t activation;                    // of the gate: kSilu or kGelu
    float epsilon, scale;                  // of the norms; of the scores
    float embedding_scale;                 // 1 where embeddings are as they are
    float score_cap, logit_cap;            // 0: none
    Weight embedding, head;
    const float* norm;
    const CortexLayer* layers;

    int group() const { return heads / kv_heads; }  // query heads of a kv head
    int width() const { return (heads + 2 * kv_heads) * head_size; }  // of q, k and v together
    int mixed_width() const { return heads * head_size; }
};

// A batch, flat: a row a token, a sequence's rows together.
struct CortexStep {
    int32_t rows, sequences, wanted_rows;
    const int32_t *tokens, *slots;                           // [rows]; where each row's key and value go
    const int32_t *row_starts, *pasts, *tables, *table_starts;  // [sequences + 1], [sequences], blocks, [sequences]
    const int32_t* wanted;                                   // [wanted rows] rows whose logits are asked for
    const float *cosines, *sines;                            // [rotations][rows][rotary / 2]
    float *const *keys, *const *values;                      // a layer's cache, see attention.h
    float* logits;                                           // [wanted rows][vocabulary]
};
}

}  // namespace cortex
