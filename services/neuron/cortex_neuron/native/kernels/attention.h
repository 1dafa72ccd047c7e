// Attention over the paged cache, in pieces of 64 positions with a running maximum and sum (FlashAttention, arXiv 2205.14135).
//
// A layer's keys are [blocks][kv heads][head size][16 positions], its values [blocks][kv heads][16 positions][head size]:
// sixteen scores come from one pass over the head's dimensions, with no sum across lanes.
#pragma once

#include <algorithm>

#include "lanes.h"

namespace cortex {

constexpr int kPositions = 16;  // of a block of the cache
constexpr int kPiece = 64;      // positions between two corrections of the running sum
constexpr int kPieceBlocks = kPiece / kPositions;
constexpr int kQueriesAtOnce = kWidth == 16 ? 8 : 4;

// One query vector's part of the answer: `out` is not yet divided by `total`.
struct Partial {
    float* out;  // [head size]
    float most, total;
};

// A query, scaled already, that sees the positions [from, to).
struct Query {
    const float* vector;
    int from, to;
};

struct Cache {
    const float *keys, *values;  // the layer's, at the kv head of block 0
    size_t block_size;           // floats from a block to the next
    const int32_t* table;
    int head_size;
    float cap;  // of the scores, or 0
};

template <int queries> inline void score(const Cache& cache, const Query* query, int first, int blocks, float (*scores)[kPiece]) {
    constexpr int together = queries <= 2 ? 4 : queries <= 4 ? 2 : 1;  // blocks, so that there are enough sums under way
    for (int block = 0; block < blocks; block += together) {
        Lanes sums[together][queries];
        const float* keys[together];
        for (int b = 0; b < together; b++) {
            const int which = std::min(block + b, blocks - 1);
            keys[b] = cache.keys + cache.block_size * cache.table[first / kPositions + which];
            for (int q = 0; q < queries; q++) sums[b][q] = Lanes::fill(0);
        }
        for (int d = 0; d < cache.head_size; d++)
            for (int b = 0; b < together; b++) {
                const Lanes key = Lanes::load(keys[b] + d * kPositions);
                for (int q = 0; q < queries; q++) sums[b][q].add(key, query[q].vector[d]);
            }
        for (int b = 0; b < together && block + b < blocks; b++)
            for (int q = 0; q < queries; q++) sums[b][q].store(scores[q] + (block + b) * kPositions);
    }
}

// Scores into weights; what the sums had before shrinks by the factor that is returned.
inline float soften(float* scores, int count, int low, int high, Partial& partial) {
    for (int i = 0; i < std::min(low, count); i++) scores[i] = -INFINITY;
    for (int i = std::max(high, 0); i < count; i++) scores[i] = -INFINITY;
    Lanes best = Lanes::load(scores);
    for (int i = kLanes; i < count; i += kLanes) best = larger(best, Lanes::load(scores + i));
    const float most = std::max(partial.most, largest(best));
    if (most == -INFINITY) {
        std::fill(scores, scores + count, 0.0f);
        return 1;
    }
    Lanes total = Lanes::fill(0);
    for (int i = 0; i < count; i += kLanes) {
        const Lanes weight = exponential(Lanes::load(scores + i) + Lanes::fill(-most));
        weight.store(scores + i);
        total = total + weight;
    }
    const float shrink = partial.most == -INFINITY ? 0.0f : std::exp(partial.most - most);
    partial.total = partial.total * shrink + sum(total);
    partial.most = most;
    return shrink;
}

template <int queries>
inline void weigh(const Cache& cache, int first, int count, const float (*weights)[kPiece], const float* shrink, Partial* partials) {
    for (int d = 0; d < cache.head_size; d += kLanes) {
        Lanes sums[queries];
        for (int q = 0; q < queries; q++) sums[q] = Lanes::load(partials[q].out + d) * shrink[q];
        for (int block = 0; block * kPositions < count; block++) {
            const float* values = cache.values + cache.block_size * cache.table[first / kPositions + block] + d;
            const int end = std::min(kPositions, count - block * kPositions);
            for (int position = 0; position < end; position++) {
                const Lanes value = Lanes::load(values + position * cache.head_size);
                for (int q = 0; q < queries; q++) sums[q].add(value, weights[q][block * kPositions + position]);
            }
        }
        for (int q = 0; q < queries; q++) sums[q].store(partials[q].out + d);
    }
}

// Positions [begin, end) for some queries of one kv head; begin is a multiple of 16.
template <int queries> inline void attend(const Cache& cache, const Query* query, int begin, int end, Partial* partials) {
    alignas(64) float scores[queries][kPiece];
    for (int q = 0; q < queries; q++) {
        partials[q].most = -INFINITY;
        partials[q].total = 0;
        std::fill(partials[q].out, partials[q].out + cache.head_size, 0.0f);
    }
    for (int first = begin; first < end; first += kPiece) {
        const int count = std::min(kPiece, end - first), blocks = (count + kPositions - 1) / kPositions;
        score<queries>(cache, query, first, blocks, scores);
        if (cache.cap)
            for (int q = 0; q < queries; q++) cap_all(scores[q], blocks * kPositions, cache.cap);
        float shrink[queries];
        for (int q = 0; q < queries; q++)
            shrink[q] = soften(scores[q], blocks * kPositions, query[q].from - first, std::min(query[q].to, end) - first, partials[q]);
        weigh<queries>(cache, first, count, scores, shrink, partials);
    }
}

template <int most = kQueriesAtOnce>
inline void attend_some(const Cache& cache, const Query* query, int queries, int begin, int end, Partial* partials) {
    if (queries == most)
        attend<most>(cache, query, begin, end, partials);
    else if constexpr (most > 1)
        attend_some<most - 1>(cache, query, queries, begin, end, partials);
}

// As many queries as there are, a few at a time.
inline void attend_all(const Cache& cache, const Query* query, int queries, int begin, int end, Partial* partials) {
    for (int q = 0; q < queries;) {
        const int parts = (queries - q + kQueriesAtOnce - 1) / kQueriesAtOnce, now = (queries - q + parts - 1) / parts;
        int low = query[q].from, high = 0;
        for (int i = q; i < q + now; i++) low = std::min(low, query[i].from), high = std::max(high, query[i].to);
        attend_some<>(cache, query + q, now, std::max(begin, low / kPositions * kPositions), std::min(end, high), partials + q);
        q += now;
    }
}

}  // namespace cortex
