// Attention of a step: what it is divided into, and each part. The threads share the rows, then the parts, then the merges.
//
// A prompt's queries are taken a few rows at a time, those of a kv head together. The context of a single query is divided where
// there would be too few parts for the threads, and its partial answers are merged.
#pragma once

#include "attention.h"
#include "model.h"
#include "own.h"
#include "rows.h"

namespace cortex {

constexpr int kTilePositions = 16;    // queries of a prompt that share a pass over the cache
constexpr int kLeastPositions = 128;  // of a part of one query's context
constexpr int kPartsOfThread = 4;

struct AttentionPart {
    int sequence, kv_head, first_row, rows, begin, end;
    int partial;  // index among those that must be merged, or -1
};

struct Merge {
    int row, kv_head, first_partial, count;
};

class Heads {
  public:
    Heads(const CortexModel& model, int threads) : model_(model), threads_(threads) {}

    // Room for a step's rows, and its division.
    void prepare(const CortexStep& step) {
        step_ = &step;
        vectors.resize(static_cast<size_t>(step.rows) * model_.width());
        mixed.resize(static_cast<size_t>(step.rows) * model_.mixed_width());
        parts.clear();
        merges.clear();
        int partials = 0;
        const int units = step.rows * model_.kv_heads;
        for (int s = 0; s < step.sequences; s++) {
            const int rows = step.row_starts[s + 1] - step.row_starts[s];
            const int split = rows == 1 ? splits(step.pasts[s] + rows, units) : 1;
            for (int head = 0; head < model_.kv_heads; head++) {
                if (split > 1)
                    divide_context(s, head, split, partials);
                else
                    divide_rows(s, head);
            }
        }
        partial_.resize(static_cast<size_t>(partials) * model_.group() * (model_.head_size + 2));
    }

    // A row's q in place, scaled; its k and v into the cache of layer `index`.
    void place(const CortexLayer& layer, int index, int row) {
        const int size = model_.head_size, half = model_.rotary / 2, slot = step_->slots[row];
        const size_t turn = (static_cast<size_t>(std::max(0, layer.rotation)) * step_->rows + row) * half;
        float* vector = vectors.data() + static_cast<size_t>(row) * model_.width();
        for (int head = 0; head < model_.heads + model_.kv_heads; head++, vector += size) {
            const bool is_query = head < model_.heads;
            const float* norm = is_query ? layer.query_norm : layer.key_norm;
            if (norm) normalise(vector, norm, model_.epsilon, size, vector);
            if (layer.rotation >= 0) rotate(vector, step_->cosines + turn, step_->sines + turn, half);
            if (is_query)
                for (int i = 0; i < size; i++) vector[i] *= model_.scale;
            else
                keep_key(vector, index, head - model_.heads, slot);
        }
        for (int head = 0; head < model_.kv_heads; head++, vector += size)
            memcpy(step_->values[index] + place_of(head, slot) + slot % kPositions * size, vector, 4 * size);
    }

    void attend(Own& own, const CortexLayer& layer, int index, const AttentionPart& part) {
        const int size = model_.head_size, many = model_.group(), count = part.rows * many;
        const int position = step_->pasts[part.sequence] + part.first_row - step_->row_starts[part.sequence];
        own.queries.resize(count);
        own.partials.resize(count);
        own.partial.resize(static_cast<size_t>(count) * size);
        for (int i = 0; i < count; i++) {
            const int row = part.first_row + i / many, at = position + i / many;
            const int head = part.kv_head * many + i % many;
            const int from = layer.window ? std::max(0, at + 1 - layer.window) : 0;
            own.queries[i] = {vectors.data() + static_cast<size_t>(row) * model_.width() + head * size, from, at + 1};
            float* out = part.partial < 0 ? mixed.data() + (static_cast<size_t>(row) * model_.heads + head) * size
                                          : partial_.data() + (static_cast<size_t>(part.partial) * many + i) * (size + 2);
            own.partials[i] = {out, -INFINITY, 0};
        }
        const Cache cache{step_->keys[index] + place_of(part.kv_head, 0), step_->values[index] + place_of(part.kv_head, 0),
                          static_cast<size_t>(model_.kv_heads) * size * kPositions,
                          step_->tables + step_->table_starts[part.sequence], size, model_.score_cap};
        attend_all(cache, own.queries.data(), count, part.begin, part.end, own.partials.data());
        for (const Partial& partial : own.partials) {
            if (part.partial < 0) {
                for (int d = 0; d < size; d += kLanes) (Lanes::load(partial.out + d) * (1 / partial.total)).store(partial.out + d);
            } else {
                partial.out[size] = partial.most;
                partial.out[size + 1] = partial.total;
            }
        }
    }

    void merge(const Merge& merge) {
        const int size = model_.head_size, many = model_.group();
        for (int g = 0; g < many; g++) {
            float* to = mixed.data() + (static_cast<size_t>(merge.row) * model_.heads + merge.kv_head * many + g) * size;
            float most = -INFINITY, total = 0;
            for (int i = 0; i < merge.count; i++) most = std::max(most, partial(merge, i, g)[size]);
            std::fill(to, to + size, 0.0f);
            for (int i = 0; i < merge.count; i++) {
                const float* one = partial(merge, i, g);
                const float share = one[size] == -INFINITY ? 0.0f : std::exp(one[size] - most);
                total += share * one[size + 1];
                for (int d = 0; d < size; d++) to[d] += share * one[d];
            }
            for (int d = 0; d < size; d++) to[d] /= total;
        }
    }

    std::vector<float> vectors;  // [rows][width], q, k and v
    std::vector<float> mixed;    // [rows][heads][head size], what attention answers
    std::vector<AttentionPart> parts;
    std::vector<Merge> merges;

  private:
    int splits(int length, int units) const {
        if (threads_ == 1 || units >= kPartsOfThread * threads_) return 1;
        return std::max(1, std::min(kPartsOfThread * threads_ / units, length / kLeastPositions));
    }

    void divide_context(int sequence, int head, int split, int& partials) {
        const int first = step_->row_starts[sequence], length = step_->pasts[sequence] + 1;
        const int each = (length + split * kPiece - 1) / (split * kPiece) * kPiece;
        const int count = (length + each - 1) / each;
        merges.push_back({first, head, partials, count});
        for (int i = 0; i < count; i++)
            parts.push_back({sequence, head, first, 1, i * each, std::min(length, (i + 1) * each), partials++});
    }

    void divide_rows(int sequence, int head) {
        const int first = step_->row_starts[sequence], rows = step_->row_starts[sequence + 1] - first;
        const int length = step_->pasts[sequence] + rows, tile = std::max(1, kTilePositions / model_.group());
        for (int row = 0; row < rows; row += tile)
            parts.push_back({sequence, head, first + row, std::min(tile, rows - row), 0, length, -1});
    }

    size_t place_of(int kv_head, int slot) const {
        return (static_cast<size_t>(slot / kPositions) * model_.kv_heads + kv_head) * model_.head_size * kPositions;
    }

    void keep_key(const float* vector, int layer, int kv_head, int slot) {
        float* to = step_->keys[layer] + place_of(kv_head, slot) + slot % kPositions;
        for (int i = 0; i < model_.head_size; i++) to[i * kPositions] = vector[i];
    }

    const float* partial(const Merge& merge, int i, int g) const {
        return partial_.data() + (static_cast<size_t>(merge.first_partial + i) * model_.group() + g) * (model_.head_size + 2);
    }

    const CortexModel model_;
    const int threads_;
    std::vector<float> partial_;
    const CortexStep* step_ = nullptr;
};

}  // namespace cortex
