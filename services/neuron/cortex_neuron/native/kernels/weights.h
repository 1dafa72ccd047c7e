// Weight matrices as the products read them: panels of 16 rows, lane by lane, in blocks of 32 columns.
//
// One stream from the first byte to the last, for memory is read fastest so. In a block, what is of row `lane` is in the lane-th word:
//   f32        [32][16] floats
//   f16, bf16  [16][16] words, the even column in the lower half
//   q8         scales [16] halves, then [8][16] words of four signed bytes
//   q4         scales and minima [2][16] halves, then [4][16] words of eight nibbles: the low ones of the four bytes are columns
//              0 to 3, the high ones columns 4 to 7
// A q8 value is scale * byte, a q4 value scale * nibble + minimum: GGML's Q8_0, Q4_0 and Q4_1 as they are, nothing rounded.
#pragma once

#include "lanes.h"

namespace cortex {

enum Kind : int32_t { kF32 = 0, kF16 = 1, kBF16 = 2, kQ8 = 3, kQ4 = 4 };

constexpr int kBlock = 32;
constexpr size_t kAhead = 2048;  // bytes that are asked of memory before they are needed

constexpr size_t scale_bytes(Kind kind) { return kind == kQ8 ? 32 : kind == kQ4 ? 64 : 0; }

constexpr size_t value_bytes(Kind kind) {
    switch (kind) {
        case kF32: return kLanes * kBlock * 4;
        case kF16:
        case kBF16: return kLanes * kBlock * 2;
        case kQ8: return kLanes * kBlock;
        default: return kLanes * kBlock / 2;
    }
}

constexpr size_t block_bytes(Kind kind) { return scale_bytes(kind) + value_bytes(kind); }  // of a panel

struct Weight {
    int32_t kind;
    int32_t rows;     // of the matrix; the last panel is filled with zeros
    int32_t columns;  // a multiple of 32
    const uint8_t* data;
    const float* bias;  // [rows], or null

    int panels() const { return (rows + kLanes - 1) / kLanes; }
    int blocks() const { return columns / kBlock; }
    size_t panel_size() const { return block_bytes(Kind(kind)) * blocks(); }
    const uint8_t* panel(int index) const { return data + panel_size() * index; }
};

// One block of a panel: 32 columns of 16 rows.
template <Kind kind> struct Block {
    const uint8_t* values;
    Lanes scale, minimum;

    explicit Block(const uint8_t* block) : values(block + scale_bytes(kind)) {
        const auto* scales = reinterpret_cast<const uint16_t*>(block);
        if constexpr (kind == kQ8 || kind == kQ4) scale = load_halves(scales);
        if constexpr (kind == kQ4) minimum = load_halves(scales + kLanes);
        for (size_t line = 0; line < block_bytes(kind); line += 64) __builtin_prefetch(block + kAhead + line);
    }

    // The column's 16 values before scale and minimum.
    Lanes raw(int column) const {
        Lanes out;
        for (int i = 0; i < kRegisters; i++) out.r[i] = raw_register(column, i);
        return out;
    }

    // The column's 16 values.
    Lanes value(int column) const {
        if constexpr (kind == kQ8) return raw(column) * scale;
        if constexpr (kind == kQ4) {
            Lanes out = minimum;
            out.add(raw(column), scale);
            return out;
        }
        return raw(column);
    }

  private:
    Floats raw_register(int column, int i) const {
        if constexpr (kind == kF32) {
            return read<Floats>(values + (column * kLanes + i * kWidth) * 4);
        } else if constexpr (kind == kBF16) {
            const Words words = read<Words>(values + (column / 2 * kLanes + i * kWidth) * 4);
            return reinterpret_cast<Floats>(column % 2 ? words & 0xffff0000u : words << 16);
        } else if constexpr (kind == kF16) {
            return half_register(column, i);
        } else if constexpr (kind == kQ8) {
            const Ints words = read<Ints>(values + (column / 4 * kLanes + i * kWidth) * 4);
            const int up = 24 - 8 * (column % 4);
            return __builtin_convertvector((up ? words << up : words) >> 24, Floats);
        } else {
            const Words words = read<Words>(values + (column / 8 * kLanes + i * kWidth) * 4);
            const int at = column % 8, down = at < 4 ? 8 * at : 8 * (at - 4) + 4;
#if defined(__AVX512F__)
            // A permutation reads the low four bits of each index: it masks and converts at once.
            const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            const auto index = reinterpret_cast<__m512i>(down ? words >> down : words);
            return reinterpret_cast<Floats>(_mm512_permutexvar_ps(index, table));
#else
            return __builtin_convertvector(reinterpret_cast<Ints>((words >> down) & 15u), Floats);
#endif
        }
    }

    Floats half_register(int column, int i) const {
        Floats out;
        const auto* halves = reinterpret_cast<const uint16_t*>(values + (column / 2 * kLanes + i * kWidth) * 4);
#if defined(__AVX512F__)
        const Words words = read<Words>(halves);
        const auto narrow = _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(column % 2 ? words >> 16 : words));
        out = reinterpret_cast<Floats>(_mm512_cvtph_ps(narrow));
#elif defined(__AVX2__)
        const Words words = read<Words>(halves);
        const auto wide = reinterpret_cast<__m256i>(column % 2 ? words >> 16 : words & 0xffffu);
        const auto narrow = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        out = reinterpret_cast<Floats>(_mm256_cvtph_ps(narrow));
#else
        for (int lane = 0; lane < kWidth; lane++) out[lane] = half_to_float(halves[2 * lane + column % 2]);
#endif
        return out;
    }
};

template <typename Do> inline void for_kind(int32_t kind, Do&& act) {
    switch (kind) {
        case kF32: act(std::integral_constant<Kind, kF32>{}); break;
        case kF16: act(std::integral_constant<Kind, kF16>{}); break;
        case kBF16: act(std::integral_constant<Kind, kBF16>{}); break;
        case kQ8: act(std::integral_constant<Kind, kQ8>{}); break;
        default: act(std::integral_constant<Kind, kQ4>{}); break;
    }
}

// A row of the matrix as floats: an embedding.
inline void unpack_row(const Weight& weight, int row, float* to) {
    for_kind(weight.kind, [&](auto kind) {
        for (int block = 0; block < weight.blocks(); block++) {
            const Block<kind> part(weight.panel(row / kLanes) + block_bytes(kind) * block);
            float sixteen[kLanes];
            for (int column = 0; column < kBlock; column++) {
                part.value(column).store(sixteen);
                to[block * kBlock + column] = sixteen[row % kLanes];
            }
        }
    });
}

}  // namespace cortex
