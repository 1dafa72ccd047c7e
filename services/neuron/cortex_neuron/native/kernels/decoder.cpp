// A whole step of a decoder of the Llama kind in one call: token ids in, logits out.
//
// The layer is RMSNorm, attention with rotary positions (with or without biases, and with or without norms of q and k),
// RMSNorm, SwiGLU: Llama, Mistral, Qwen 2 and 3, SmolLM. Called from Python by ctypes: plain C structures, no torch.
// Every thread of the team runs `Step::run`; the phases of a layer are divided into parts and end at a barrier.

#include <memory>

#include "attention.h"
#include "linear.h"
#include "pack.h"
#include "team.h"

namespace cortex {

extern "C" {

struct CortexLayer {
    const float *input_norm, *output_norm;  // [hidden], of attention and of the feed-forward part
    const float *query_norm, *key_norm;     // [head size], or null
    Weight query, key, value, output, gate, up, down;
    int32_t window;   // positions a query sees, itself included; 0: all
    int32_t rotated;  // whether positions turn q and k
};

struct CortexModel {
    int32_t num_layers, hidden, heads, kv_heads, head_size, intermediate, rotary;
    float epsilon, scale;  // of the norms; of the scores
    Weight embedding, head;
    const float* norm;
    const CortexLayer* layers;
};

// A batch, flat: a row a token, a sequence's rows together.
struct CortexStep {
    int32_t rows, sequences, wanted_rows;
    const int32_t *tokens, *slots;                           // [rows]; where each row's key and value go
    const int32_t *row_starts, *pasts, *tables, *table_starts;  // [sequences + 1], [sequences], blocks, [sequences]
    const int32_t* wanted;                                   // [wanted rows] rows whose logits are asked for
    const float *cosines, *sines;                            // [rows][rotary / 2]
    float *const *keys, *const *values;                      // a layer's cache, see attention.h
    float* logits;                                           // [wanted rows][vocabulary]
};
}

namespace {

constexpr int kAlone = 8;               // up to so many rows each thread normalises for itself
constexpr int kTilePositions = 16;      // queries of a prompt that share a pass over the cache
constexpr int kLeastPositions = 128;    // of a part of one query's context
constexpr int kPartsOfThread = 4;

struct AttentionPart {
    int sequence, kv_head, first_row, rows, begin, end;
    int partial;  // index among those that must be merged, or -1
};

struct Merge {
    int row, kv_head, first_partial, count;
};

void normalise(const float* from, const float* weight, float epsilon, int size, float* to) {
    Lanes squares = Lanes::fill(0);
    for (int i = 0; i < size; i += kLanes) squares.add(Lanes::load(from + i), Lanes::load(from + i));
    const float factor = 1.0f / std::sqrt(sum(squares) / size + epsilon);
    for (int i = 0; i < size; i += kLanes) (Lanes::load(from + i) * factor * Lanes::load(weight + i)).store(to + i);
}

// Halves are rotated against each other, as transformers does.
void rotate(float* vector, const float* cosines, const float* sines, int half) {
    for (int i = 0; i < half; i++) {
        const float a = vector[i], b = vector[i + half];
        vector[i] = a * cosines[i] - b * sines[i];
        vector[i + half] = b * cosines[i] + a * sines[i];
    }
}

// A tile [rows][16] into columns of a matrix.
void put(const float* tile, int rows, int panel, int columns, float* to, size_t stride) {
    const int count = std::min(kLanes, columns - panel * kLanes);
    for (int row = 0; row < rows; row++) memcpy(to + row * stride + panel * kLanes, tile + row * kLanes, 4 * count);
}

class Decoder {
  public:
    Decoder(const CortexModel& model, int threads) : model_(model), team_(threads), own_(threads) {
        phases_ = std::vector<Parts>(static_cast<size_t>(model.num_layers) * 8 + 4);
    }

    void step(const CortexStep& step) {
        step_ = &step;
        make_room();
        divide_attention();
        for (auto& phase : phases_) phase.reset();
        team_.run([this](int me) { run(own_[me]); });
    }

  private:
    struct Own {  // a thread's
        std::vector<float> inputs, totals, tile, second, partial;
        std::vector<Query> queries;
        std::vector<Partial> partials;
        int phase = 0;
    };

    int width() const { return (model_.heads + 2 * model_.kv_heads) * model_.head_size; }
    int group() const { return model_.heads / model_.kv_heads; }

    void make_room() {
        const size_t rows = step_->rows, hidden = model_.hidden;
        hidden_.resize(rows * hidden);
        inputs_.resize(rows * hidden);
        qkv_.resize(rows * width());
        mixed_.resize(rows * model_.heads * model_.head_size);
        active_.resize(rows * model_.intermediate);
        ends_.resize(std::max<size_t>(1, step_->wanted_rows) * hidden);
        const int tile = std::max(step_->rows, step_->wanted_rows) * kLanes;
        for (auto& own : own_) {
            own.phase = 0;
            own.inputs.resize(static_cast<size_t>(kAlone) * hidden);
            own.totals.resize(std::max({model_.intermediate, model_.hidden, model_.heads * model_.head_size}) / kBlock);
            own.tile.resize(tile);
            own.second.resize(tile);
        }
    }

    // ---- what attention is divided into

    void divide_attention() {
        parts_.clear();
        merges_.clear();
        int partials = 0;
        const int units = step_->rows * model_.kv_heads;
        const int tile = std::max(1, kTilePositions / group());
        for (int s = 0; s < step_->sequences; s++) {
            const int first = step_->row_starts[s], rows = step_->row_starts[s + 1] - first;
            const int length = step_->pasts[s] + rows;
            const int split = rows == 1 ? splits(length, units) : 1;
            for (int head = 0; head < model_.kv_heads; head++) {
                if (split > 1) {
                    const int each = (length + split * kPiece - 1) / (split * kPiece) * kPiece;
                    const int count = (length + each - 1) / each;
                    merges_.push_back({first, head, partials, count});
                    for (int i = 0; i < count; i++)
                        parts_.push_back({s, head, first, 1, i * each, std::min(length, (i + 1) * each), partials++});
                } else {
                    for (int row = 0; row < rows; row += tile)
                        parts_.push_back({s, head, first + row, std::min(tile, rows - row), 0, length, -1});
                }
            }
        }
        const size_t each = static_cast<size_t>(group()) * (model_.head_size + 2);
        partial_.resize(partials * each);
    }

    int splits(int length, int units) const {
        if (team_.size() == 1 || units >= kPartsOfThread * team_.size()) return 1;
        return std::max(1, std::min(kPartsOfThread * team_.size() / units, length / kLeastPositions));
    }

    // ---- a thread's way through the step

    void run(Own& own) {
        embed(own);
        for (int i = 0; i < model_.num_layers; i++) layer(own, i);
        finish(own);
    }

    Parts& next(Own& own) { return phases_[own.phase++]; }
    void meet() { team_.barrier.wait(); }

    void embed(Own& own) {
        next(own).share(step_->rows, 1, [&](int row) {
            unpack_row(model_.embedding, step_->tokens[row], hidden_.data() + static_cast<size_t>(row) * model_.hidden);
        });
        meet();
    }

    void layer(Own& own, int index) {
        const CortexLayer& layer = model_.layers[index];
        const int rows = step_->rows, hidden = model_.hidden, intermediate = model_.intermediate;
        const float* inputs = normalised(own, hidden_.data(), layer.input_norm, rows, inputs_.data());
        project(own, inputs, layer);
        meet();
        next(own).share(rows, rows > 64 ? 8 : 1, [&](int row) { place(layer, index, row); });
        meet();
        next(own).share(static_cast<int>(parts_.size()), 1, [&](int part) { attend(own, layer, index, parts_[part]); });
        meet();
        if (!merges_.empty()) {
            next(own).share(static_cast<int>(merges_.size()), 1, [&](int i) { merge(merges_[i]); });
            meet();
        }
        add_product(own, layer.output, mixed_.data(), model_.heads * model_.head_size);
        meet();
        inputs = normalised(own, hidden_.data(), layer.output_norm, rows, inputs_.data());
        add_totals(own, inputs, hidden);
        const int panels = layer.gate.panels();
        next(own).share(panels, at_once(panels), [&](int panel) { activate(own, layer, inputs, panel); });
        meet();
        add_product(own, layer.down, active_.data(), intermediate);
        meet();
    }

    void finish(Own& own) {
        const int wanted = step_->wanted_rows, hidden = model_.hidden;
        if (!wanted) return;
        next(own).share(wanted, 1, [&](int i) {
            const float* from = hidden_.data() + static_cast<size_t>(step_->wanted[i]) * hidden;
            normalise(from, model_.norm, model_.epsilon, hidden, ends_.data() + static_cast<size_t>(i) * hidden);
        });
        meet();
        if (wanted == 1) add_up(ends_.data(), hidden, own.totals.data());
        const int panels = model_.head.panels(), vocabulary = model_.head.rows;
        next(own).share(panels, at_once(panels), [&](int panel) {
            multiply_panel(model_.head, panel, ends_.data(), hidden, wanted, own.totals.data(), own.tile.data());
            put(own.tile.data(), wanted, panel, vocabulary, step_->logits, vocabulary);
        });
    }

    // ---- pieces

    int at_once(int panels) const { return std::max(1, panels / (team_.size() * 8)); }

    const float* normalised(Own& own, const float* from, const float* weight, int rows, float* shared) {
        const size_t hidden = model_.hidden;
        if (rows <= kAlone) {
            for (int row = 0; row < rows; row++)
                normalise(from + row * hidden, weight, model_.epsilon, model_.hidden, own.inputs.data() + row * hidden);
            return own.inputs.data();
        }
        next(own).share(rows, 4, [&](int row) {
            normalise(from + row * hidden, weight, model_.epsilon, model_.hidden, shared + row * hidden);
        });
        meet();
        return shared;
    }

    void add_totals(Own& own, const float* inputs, int columns) {
        if (step_->rows == 1) add_up(inputs, columns, own.totals.data());
    }

    void project(Own& own, const float* inputs, const CortexLayer& layer) {
        add_totals(own, inputs, model_.hidden);
        const Weight* weights[] = {&layer.query, &layer.key, &layer.value};
        const int first = layer.query.panels(), second = first + layer.key.panels(), all = second + layer.value.panels();
        const int starts[] = {0, model_.heads * model_.head_size, (model_.heads + model_.kv_heads) * model_.head_size};
        next(own).share(all, at_once(all), [&](int i) {
            const int which = i < first ? 0 : i < second ? 1 : 2;
            const int panel = i - (which == 0 ? 0 : which == 1 ? first : second);
            multiply_panel(*weights[which], panel, inputs, model_.hidden, step_->rows, own.totals.data(), own.tile.data());
            put(own.tile.data(), step_->rows, panel, weights[which]->rows, qkv_.data() + starts[which], width());
        });
    }

    // q in place, scaled; k and v into the cache.
    void place(const CortexLayer& layer, int index, int row) {
        const int size = model_.head_size, half = model_.rotary / 2;
        const float* cosines = step_->cosines + static_cast<size_t>(row) * half;
        const float* sines = step_->sines + static_cast<size_t>(row) * half;
        float* vector = qkv_.data() + static_cast<size_t>(row) * width();
        for (int head = 0; head < model_.heads + model_.kv_heads; head++, vector += size) {
            const bool is_query = head < model_.heads;
            const float* norm = is_query ? layer.query_norm : layer.key_norm;
            if (norm) normalise(vector, norm, model_.epsilon, size, vector);
            if (layer.rotated) rotate(vector, cosines, sines, half);
            if (is_query)
                for (int i = 0; i < size; i++) vector[i] *= model_.scale;
            else
                keep_key(vector, index, head - model_.heads, step_->slots[row]);
        }
        for (int head = 0; head < model_.kv_heads; head++, vector += size)
            memcpy(step_->values[index] + place_of(head, step_->slots[row]) + step_->slots[row] % kPositions * size, vector, 4 * size);
    }

    size_t place_of(int kv_head, int slot) const {
        return (static_cast<size_t>(slot / kPositions) * model_.kv_heads + kv_head) * model_.head_size * kPositions;
    }

    void keep_key(const float* vector, int layer, int kv_head, int slot) {
        float* to = step_->keys[layer] + place_of(kv_head, slot) + slot % kPositions;
        for (int i = 0; i < model_.head_size; i++) to[i * kPositions] = vector[i];
    }

    void attend(Own& own, const CortexLayer& layer, int index, const AttentionPart& part) {
        const int size = model_.head_size, many = group(), count = part.rows * many;
        const int position = step_->pasts[part.sequence] + part.first_row - step_->row_starts[part.sequence];
        own.queries.resize(count);
        own.partials.resize(count);
        own.partial.resize(static_cast<size_t>(count) * size);
        for (int i = 0; i < count; i++) {
            const int row = part.first_row + i / many, at = position + i / many;
            const int head = part.kv_head * many + i % many;
            const int from = layer.window ? std::max(0, at + 1 - layer.window) : 0;
            own.queries[i] = {qkv_.data() + static_cast<size_t>(row) * width() + head * size, from, at + 1};
            float* out = part.partial < 0 ? mixed_.data() + (static_cast<size_t>(row) * model_.heads + head) * size
                                          : partial_.data() + (static_cast<size_t>(part.partial) * many + i) * (size + 2);
            own.partials[i] = {out, -INFINITY, 0};
        }
        const Cache cache{step_->keys[index] + place_of(part.kv_head, 0), step_->values[index] + place_of(part.kv_head, 0),
                          static_cast<size_t>(model_.kv_heads) * size * kPositions,
                          step_->tables + step_->table_starts[part.sequence], size};
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
        const int size = model_.head_size, many = group();
        for (int g = 0; g < many; g++) {
            float* to = mixed_.data() + (static_cast<size_t>(merge.row) * model_.heads + merge.kv_head * many + g) * size;
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

    const float* partial(const Merge& merge, int i, int g) const {
        return partial_.data() + (static_cast<size_t>(merge.first_partial + i) * group() + g) * (model_.head_size + 2);
    }

    void activate(Own& own, const CortexLayer& layer, const float* inputs, int panel) {
        const int rows = step_->rows, intermediate = model_.intermediate;
        multiply_panel(layer.gate, panel, inputs, model_.hidden, rows, own.totals.data(), own.tile.data());
        multiply_panel(layer.up, panel, inputs, model_.hidden, rows, own.totals.data(), own.second.data());
        const Lanes one = Lanes::fill(1);
        for (int row = 0; row < rows; row++) {
            const Lanes gate = Lanes::load(own.tile.data() + row * kLanes), up = Lanes::load(own.second.data() + row * kLanes);
            silu(gate, up, one).store(own.tile.data() + row * kLanes);
        }
        put(own.tile.data(), rows, panel, intermediate, active_.data(), intermediate);
    }

    // gate * sigmoid(gate) * up, by the exponential of what is not positive
    static Lanes silu(const Lanes& gate, const Lanes& up, const Lanes& one) {
        Lanes out;
        for (int i = 0; i < kRegisters; i++) {
            const Ints negative = gate.r[i] < 0.0f;
            const Floats down = reinterpret_cast<Floats>(reinterpret_cast<Ints>(gate.r[i]) | INT32_MIN);  // -|gate|
            const Floats power = exponential(down);
            const Floats numerator = reinterpret_cast<Floats>((reinterpret_cast<Ints>(power) & negative) |
                                                              (reinterpret_cast<Ints>(one.r[i]) & ~negative));
            out.r[i] = gate.r[i] * numerator / (power + 1.0f) * up.r[i];
        }
        return out;
    }

    // hidden += weight x inputs
    void add_product(Own& own, const Weight& weight, const float* inputs, int columns) {
        const int rows = step_->rows, panels = weight.panels();
        add_totals(own, inputs, columns);
        next(own).share(panels, at_once(panels), [&](int panel) {
            multiply_panel(weight, panel, inputs, columns, rows, own.totals.data(), own.tile.data());
            for (int row = 0; row < rows; row++) {
                float* to = hidden_.data() + static_cast<size_t>(row) * model_.hidden + panel * kLanes;
                (Lanes::load(to) + Lanes::load(own.tile.data() + row * kLanes)).store(to);
            }
        });
    }

    CortexModel model_;
    Team team_;
    std::vector<Own> own_;
    std::vector<Parts> phases_;
    std::vector<AttentionPart> parts_;
    std::vector<Merge> merges_;
    std::vector<float> hidden_, inputs_, qkv_, mixed_, active_, ends_, partial_;
    const CortexStep* step_ = nullptr;
};

}  // namespace

extern "C" {

// Bytes of a packed matrix.
size_t cortex_packed_size(int32_t kind, int32_t rows, int32_t columns) {
    const Weight weight{kind, rows, columns, nullptr, nullptr};
    return weight.panel_size() * weight.panels();
}

// Pack a matrix of rows as they are stored; see pack.h. `to.data` is 64-byte aligned memory of packed size.
void cortex_pack(int32_t stored, const void* from, const int32_t* order, const Weight* to, int32_t threads) {
    std::vector<std::thread> others;
    const int panels = to->panels();
    const auto part = [=](int i) {
        pack_panels(stored, static_cast<const uint8_t*>(from), order, *to, panels * i / threads, panels * (i + 1) / threads);
    };
    for (int i = 1; i < threads; i++) others.emplace_back(part, i);
    part(0);
    for (auto& other : others) other.join();
}

// Row `row` of a packed matrix as floats.
void cortex_unpack_row(const Weight* weight, int32_t row, float* to) { unpack_row(*weight, row, to); }

// out [rows][matrix rows] = inputs [rows][columns] x the matrix, on this thread: a product by itself, so that it can be checked.
void cortex_multiply(const Weight* weight, const float* inputs, int32_t rows, float* out) {
    std::vector<float> totals(weight->blocks()), tile(static_cast<size_t>(rows) * kLanes);
    add_up(inputs, weight->columns, totals.data());
    for (int panel = 0; panel < weight->panels(); panel++) {
        multiply_panel(*weight, panel, inputs, weight->columns, rows, totals.data(), tile.data());
        put(tile.data(), rows, panel, weight->rows, out, weight->rows);
    }
}

// What the model points to must outlive the decoder.
void* cortex_decoder_new(const CortexModel* model, int32_t threads) { return new Decoder(*model, threads); }
void cortex_decoder_delete(void* decoder) { delete static_cast<Decoder*>(decoder); }
void cortex_decoder_step(void* decoder, const CortexStep* step) { static_cast<Decoder*>(decoder)->step(*step); }
}

}  // namespace cortex
