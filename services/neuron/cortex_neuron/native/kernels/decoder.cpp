// What Python calls, by ctypes: plain C functions, no torch.

#include "decoder.h"
#include "pack.h"

namespace cortex {

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
