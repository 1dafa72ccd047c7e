// Sixteen floats at a time, whatever the processor's registers hold: one of AVX-512, two of AVX2, four of NEON.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace cortex {

constexpr int kLanes = 16;
#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kRegisters = kLanes / kWidth;

typedef float Floats __attribute__((vector_size(4 * kWidth)));
typedef int32_t Ints __attribute__((vector_size(4 * kWidth)));
typedef uint32_t Words __attribute__((vector_size(4 * kWidth)));

template <typename Vector> inline Vector read(const void* from) {
    Vector value;
    memcpy(&value, from, sizeof value);
    return value;
}

struct Lanes {
    Floats r[kRegisters];

    static Lanes fill(float value) {
        Lanes out;
        for (int i = 0; i < kRegisters; i++) out.r[i] = Floats{} + value;
        return out;
    }
    static Lanes load(const float* from) {
        Lanes out;
        for (int i = 0; i < kRegisters; i++) out.r[i] = read<Floats>(from + i * kWidth);
        return out;
    }
    void store(float* to) const { memcpy(to, r, sizeof r); }
    // this += a * b
    void add(const Lanes& a, float b) {
        for (int i = 0; i < kRegisters; i++) r[i] += a.r[i] * b;
    }
    void add(const Lanes& a, const Lanes& b) {
        for (int i = 0; i < kRegisters; i++) r[i] += a.r[i] * b.r[i];
    }
};

inline Lanes operator*(Lanes a, float b) {
    for (int i = 0; i < kRegisters; i++) a.r[i] *= b;
    return a;
}
inline Lanes operator*(Lanes a, const Lanes& b) {
    for (int i = 0; i < kRegisters; i++) a.r[i] *= b.r[i];
    return a;
}
inline Lanes operator+(Lanes a, const Lanes& b) {
    for (int i = 0; i < kRegisters; i++) a.r[i] += b.r[i];
    return a;
}

inline float sum(const Lanes& a) {
    Floats all = a.r[0];
    for (int i = 1; i < kRegisters; i++) all += a.r[i];
    float total = 0;
    for (int i = 0; i < kWidth; i++) total += all[i];
    return total;
}

inline Floats larger(Floats a, Floats b) {
    const Ints first = a > b;
    return reinterpret_cast<Floats>((reinterpret_cast<Ints>(a) & first) | (reinterpret_cast<Ints>(b) & ~first));
}

inline Lanes larger(Lanes a, const Lanes& b) {
    for (int i = 0; i < kRegisters; i++) a.r[i] = larger(a.r[i], b.r[i]);
    return a;
}

inline float largest(const Lanes& a) {
    Floats all = a.r[0];
    for (int i = 1; i < kRegisters; i++) all = larger(all, a.r[i]);
    float most = all[0];
    for (int i = 1; i < kWidth; i++) most = all[i] > most ? all[i] : most;
    return most;
}

inline float half_to_float(uint16_t half) {
    _Float16 value;
    memcpy(&value, &half, sizeof value);
    return static_cast<float>(value);
}

inline Lanes load_halves(const uint16_t* from) {
#if defined(__AVX512F__)
    return {{reinterpret_cast<Floats>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))))}};
#elif defined(__AVX2__)
    const auto* at = reinterpret_cast<const __m128i*>(from);
    return {{reinterpret_cast<Floats>(_mm256_cvtph_ps(_mm_loadu_si128(at))),
             reinterpret_cast<Floats>(_mm256_cvtph_ps(_mm_loadu_si128(at + 1)))}};
#else
    Lanes out;
    for (int i = 0; i < kLanes; i++) out.r[i / kWidth][i % kWidth] = half_to_float(from[i]);
    return out;
#endif
}

// e^x to 2 units in the last place, for x <= 0; below -87 it is 0. Cephes' polynomial for expf.
inline Floats exponential(Floats x) {
    const Floats low = Floats{} - 87.0f;
    const Ints dead = x < low;
    x = reinterpret_cast<Floats>((reinterpret_cast<Ints>(low) & dead) | (reinterpret_cast<Ints>(x) & ~dead));
    const Floats shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
    const Floats n = shifted - 12582912.0f;
    x -= n * 0.693359375f;
    x -= n * -2.12194440e-4f;
    Floats y = Floats{} + 1.9875691500e-4f;
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * x * x + x + 1.0f;
    const Ints power = (reinterpret_cast<Ints>(shifted) << 23);
    return reinterpret_cast<Floats>((reinterpret_cast<Ints>(y) + power) & ~dead);
}

// cap * tanh(x / cap): nearly x where that is small, and never beyond the cap
inline Floats capped(Floats x, float cap) {
    const Ints sign = reinterpret_cast<Ints>(x) & INT32_MIN;
    const Floats twice = reinterpret_cast<Floats>(reinterpret_cast<Ints>(x) | INT32_MIN) * (2.0f / cap);  // -2 |x| / cap
    const Floats power = exponential(twice);
    const Floats size = (1.0f - power) / (power + 1.0f) * cap;
    return reinterpret_cast<Floats>(reinterpret_cast<Ints>(size) | sign);
}

inline void cap_all(float* values, int count, float cap) {  // a multiple of 16
    for (int i = 0; i < count; i += kLanes) {
        Lanes some = Lanes::load(values + i);
        for (int r = 0; r < kRegisters; r++) some.r[r] = capped(some.r[r], cap);
        some.store(values + i);
    }
}

inline Lanes exponential(Lanes a) {
    for (int i = 0; i < kRegisters; i++) a.r[i] = exponential(a.r[i]);
    return a;
}

}  // namespace cortex
