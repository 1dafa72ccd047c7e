// A whole step of a decoder: token ids in, logits out. Every thread of the team runs `Decoder::run`; the phases of a layer are
// divided into parts and end at a barrier.
//
// A layer is RMSNorm, attention with rotary positions (with or without biases, and with or without norms of q and k), RMSNorm,
// SwiGLU: Llama, Mistral, Qwen 2 and 3, SmolLM. Where it has a router, SwiGLU is that of the experts that each row is sent to:
// Qwen 3 MoE, Mixtral. Gemma 2 and 3 have GELU in its place, norms of what attention and the feed-forward part answer, a scale of
// the embeddings, and caps of scores and logits.
#pragma once

#include <cassert>

#include "heads.h"
#include "linear.h"
#include "team.h"

namespace cortex {

constexpr int kAlone = 8;            // up to so many rows each thread normalises for itself
constexpr int kPhasesOfLayer = 12;   // at most

class Decoder {
  public:
    Decoder(const CortexModel& model, int threads)
        : model_(model), team_(threads), own_(threads), phases_(static_cast<size_t>(model.num_layers) * kPhasesOfLayer + 4),
          heads_(model, threads) {
        for (int i = 0; i < model.num_layers; i++) {
            const CortexLayer& layer = model.layers[i];
            const int inner = layer.inner(), times = layer.experts() ? model.chosen_experts : 1;
            most_inner_ = std::max(most_inner_, inner);
            most_active_ = std::max(most_active_, inner * times);
            most_experts_ = std::max(most_experts_, layer.experts());
        }
    }

    void step(const CortexStep& step) {
        step_ = &step;
        make_room();
        heads_.prepare(step);
        for (auto& phase : phases_) phase.reset();
        team_.run([this](int me) { run(own_[me]); });
    }

  private:
    void make_room() {
        const size_t rows = step_->rows, hidden = model_.hidden;
        hidden_.resize(rows * hidden);
        inputs_.resize(rows * hidden);
        active_.resize(rows * most_active_);
        answers_.resize(rows * hidden);
        ends_.resize(std::max<size_t>(1, step_->wanted_rows) * hidden);
        if (most_experts_) {
            scores_.resize(rows * most_experts_);
            chosen_.resize(rows * model_.chosen_experts);
            shares_.resize(rows * model_.chosen_experts);
            if (rows > 1) gathered_.resize(rows * model_.chosen_experts * hidden);
        }
        const int tile = std::max(step_->rows, step_->wanted_rows) * kLanes;
        for (auto& own : own_) {
            own.phase = 0;
            own.inputs.resize(static_cast<size_t>(kAlone) * hidden);
            own.totals.resize(std::max({most_inner_, model_.hidden, model_.mixed_width()}) / kBlock);
            own.tile.resize(tile);
            own.second.resize(tile);
        }
    }

    // ---- a thread's way through the step

    void run(Own& own) {
        embed(own);
        for (int i = 0; i < model_.num_layers; i++) {
            attention(own, model_.layers[i], i);
            feed_forward(own, model_.layers[i]);
        }
        finish(own);
    }

    Parts& next(Own& own) {
        assert(own.phase < static_cast<int>(phases_.size()));
        return phases_[own.phase++];
    }
    void meet() { team_.barrier.wait(); }

    void embed(Own& own) {
        next(own).share(step_->rows, 1, [&](int row) {
            float* to = hidden_.data() + static_cast<size_t>(row) * model_.hidden;
            unpack_row(model_.embedding, step_->tokens[row], to);
            if (model_.embedding_scale != 1) scale(to, model_.embedding_scale, model_.hidden);
        });
        meet();
    }

    void attention(Own& own, const CortexLayer& layer, int index) {
        const int rows = step_->rows;
        project(own, normalised(own, layer.input_norm), layer);
        meet();
        next(own).share(rows, rows > 64 ? 8 : 1, [&](int row) { heads_.place(layer, index, row); });
        meet();
        const int parts = static_cast<int>(heads_.parts.size()), merges = static_cast<int>(heads_.merges.size());
        next(own).share(parts, 1, [&](int part) { heads_.attend(own, layer, index, heads_.parts[part]); });
        meet();
        if (merges) {
            next(own).share(merges, 1, [&](int i) { heads_.merge(heads_.merges[i]); });
            meet();
        }
        add_product(own, layer.output, heads_.mixed.data(), layer.attention_norm);
        meet();
    }

    void feed_forward(Own& own, const CortexLayer& layer) {
        const float* inputs = normalised(own, layer.output_norm);
        add_totals(own, inputs, model_.hidden);
        if (layer.experts()) return ask_experts(own, layer, inputs);
        const int rows = step_->rows, panels = layer.gate.panels(), inner = layer.inner();
        next(own).share(panels, at_once(panels), [&](int panel) {
            activate(own, layer, inputs, rows, panel);
            put(own.tile.data(), rows, panel, inner, active_.data(), inner);
        });
        meet();
        add_product(own, layer.down, active_.data(), layer.inner_norm);
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
            if (model_.logit_cap) cap_all(own.tile.data(), wanted * kLanes, model_.logit_cap);
            put(own.tile.data(), wanted, panel, vocabulary, step_->logits, vocabulary);
        });
    }

    // ---- experts

    // hidden += the answers of the experts that each row chooses
    void ask_experts(Own& own, const CortexLayer& layer, const float* inputs) {
        const int places = step_->rows * model_.chosen_experts;
        route(own, layer, inputs);
        own.groups.sort(chosen_.data(), places, layer.experts());
        if (own.groups.largest > 1) gather(own, inputs, places);
        const int units = static_cast<int>(own.groups.groups.size()) * (layer.inner() / kLanes), panels = model_.hidden / kLanes;
        next(own).share_out(units, at_once(units), [&](int first, int last) { open_experts(own, layer, inputs, first, last); });
        meet();
        next(own).share_out(panels, at_once(panels), [&](int first, int last) { close_experts(own, layer, first, last); });
        meet();
    }

    void route(Own& own, const CortexLayer& layer, const float* inputs) {
        const int rows = step_->rows, experts = layer.experts(), count = model_.chosen_experts;
        next(own).share(layer.router.panels(), 1, [&](int panel) {
            multiply_panel(layer.router, panel, inputs, model_.hidden, rows, own.totals.data(), own.tile.data());
            put(own.tile.data(), rows, panel, experts, scores_.data(), experts);
        });
        meet();
        next(own).share(rows, 4, [&](int row) {
            choose(scores_.data() + static_cast<size_t>(row) * experts, experts, count, model_.whole_shares,
                   chosen_.data() + static_cast<size_t>(row) * count, shares_.data() + static_cast<size_t>(row) * count);
        });
        meet();
    }

    // The inputs in the order of the groups: a product wants its rows at even distances.
    void gather(Own& own, const float* inputs, int places) {
        const size_t hidden = model_.hidden;
        next(own).share(places, 8, [&](int i) {
            const float* from = inputs + own.groups.places[i] / model_.chosen_experts * hidden;
            memcpy(gathered_.data() + i * hidden, from, 4 * hidden);
        });
        meet();
    }

    // Gate and up of the units [first, last): the panels of the first group, then those of the next.
    void open_experts(Own& own, const CortexLayer& layer, const float* inputs, int first, int last) {
        const size_t hidden = model_.hidden, inner = layer.inner();
        const int panels = layer.inner() / kLanes;
        for (int unit = first; unit < last; unit++) {
            const Group& group = own.groups.groups[unit / panels];
            const int panel = unit % panels;
            const float* from = group.count > 1 ? gathered_.data() + group.first * hidden
                                                : inputs + own.groups.places[group.first] / model_.chosen_experts * hidden;
            if (group.count == 1 && (unit == first || panel == 0)) add_up(from, model_.hidden, own.totals.data());
            activate(own, layer, from, group.count, group.expert * panels + panel);
            put(own.tile.data(), group.count, panel, layer.inner(), active_.data() + group.first * inner, inner);
        }
    }

    // hidden += share * (down x active) in the columns of the panels [first, last), the experts one after the other
    void close_experts(Own& own, const CortexLayer& layer, int first, int last) {
        const size_t inner = layer.inner();
        const int panels = model_.hidden / kLanes;
        for (const Group& group : own.groups.groups) {
            const float* from = active_.data() + group.first * inner;
            const int32_t* places = own.groups.places.data() + group.first;
            if (group.count == 1) add_up(from, layer.inner(), own.totals.data());
            for (int panel = first; panel < last; panel++) {
                multiply_panel(layer.down, group.expert * panels + panel, from, inner, group.count, own.totals.data(), own.tile.data());
                for (int i = 0; i < group.count; i++) {
                    float* to = hidden_.data() + static_cast<size_t>(places[i] / model_.chosen_experts) * model_.hidden + panel * kLanes;
                    (Lanes::load(to) + Lanes::load(own.tile.data() + i * kLanes) * shares_[places[i]]).store(to);
                }
            }
        }
    }

    // ---- pieces

    int at_once(int panels) const { return std::max(1, panels / (team_.size() * 8)); }

    // The hidden rows, normalised: the thread's own, or for many rows shared ones.
    const float* normalised(Own& own, const float* weight) {
        const size_t hidden = model_.hidden;
        const int rows = step_->rows;
        const auto one = [&](int row, float* to) {
            normalise(hidden_.data() + row * hidden, weight, model_.epsilon, model_.hidden, to + row * hidden);
        };
        if (rows <= kAlone) {
            for (int row = 0; row < rows; row++) one(row, own.inputs.data());
            return own.inputs.data();
        }
        next(own).share(rows, 4, [&](int row) { one(row, inputs_.data()); });
        meet();
        return inputs_.data();
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
            put(own.tile.data(), step_->rows, panel, weights[which]->rows, heads_.vectors.data() + starts[which], model_.width());
        });
    }

    // own.tile = activation(gate x inputs) * (up x inputs)
    void activate(Own& own, const CortexLayer& layer, const float* inputs, int rows, int panel) {
        multiply_panel(layer.gate, panel, inputs, model_.hidden, rows, own.totals.data(), own.tile.data());
        multiply_panel(layer.up, panel, inputs, model_.hidden, rows, own.totals.data(), own.second.data());
        for (int row = 0; row < rows; row++) {
            const Lanes gate = Lanes::load(own.tile.data() + row * kLanes), up = Lanes::load(own.second.data() + row * kLanes);
            (model_.activation == kSilu ? silu(gate, up) : gelu(gate, up)).store(own.tile.data() + row * kLanes);
        }
    }

    // hidden += weight x inputs, normalised before where there is a norm
    void add_product(Own& own, const Weight& weight, const float* inputs, const float* norm) {
        const int rows = step_->rows, panels = weight.panels(), columns = weight.columns;
        add_totals(own, inputs, columns);
        if (norm) return add_normalised_product(own, weight, inputs, norm);
        next(own).share(panels, at_once(panels), [&](int panel) {
            multiply_panel(weight, panel, inputs, columns, rows, own.totals.data(), own.tile.data());
            add(own.tile.data(), rows, panel, hidden_.data(), model_.hidden);
        });
    }

    void add_normalised_product(Own& own, const Weight& weight, const float* inputs, const float* norm) {
        const int rows = step_->rows, panels = weight.panels(), hidden = model_.hidden;
        next(own).share(panels, at_once(panels), [&](int panel) {
            multiply_panel(weight, panel, inputs, weight.columns, rows, own.totals.data(), own.tile.data());
            put(own.tile.data(), rows, panel, hidden, answers_.data(), hidden);
        });
        meet();
        next(own).share(rows, 4, [&](int row) {
            const size_t at = static_cast<size_t>(row) * hidden;
            add_normalised(answers_.data() + at, norm, model_.epsilon, hidden, hidden_.data() + at);
        });
    }

    const CortexModel model_;
    Team team_;
    std::vector<Own> own_;
    std::vector<Parts> phases_;
    Heads heads_;
    int most_inner_ = 0, most_active_ = 0, most_experts_ = 0;
    std::vector<float> hidden_, inputs_, active_, ends_, answers_;
    std::vector<float> scores_, shares_, gathered_;  // of experts: [rows][experts], [rows][chosen], [rows * chosen][hidden]
    std::vector<int32_t> chosen_;                    // [rows][chosen]
    const CortexStep* step_ = nullptr;
};

}  // namespace cortex
