// What the kernels share: vectors of LANES floats, bfloat16 in and out of them, sums, and the exponential.
//
// A vector is the compiler's own vector type, as wide as the processor's registers, so that + - * / and comparisons
// work on it and a kernel is written once for all processors. Intrinsics stand only where the compiler has no operator.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))
#define AT_ONCE inline __attribute__((always_inline))  // of a member
#define INLINE static AT_ONCE

namespace {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define WIDE_512 1
constexpr int LANES = 16;
#elif defined(__AVX2__)
#define WIDE_512 0
constexpr int LANES = 8;
#else
#define WIDE_512 0
constexpr int LANES = 4;
#endif

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

// The upper 16 bits of a float. A type of its own, so that load and store know what they read.
struct bf16 {
    uint16_t bits;
};

INLINE floats all(float x) {
    floats v;
    for (int i = 0; i < LANES; i++) v[i] = x;
    return v;
}

INLINE floats load(const float* p) {
    floats v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

INLINE words as_words(halves h) {
#if WIDE_512
    return (words)_mm512_cvtepu16_epi32((__m256i)h);
#else
    return __builtin_convertvector(h, words);
#endif
}

INLINE floats widened(halves h) { return (floats)(as_words(h) << 16); }

INLINE halves load_halves(const bf16* p) {
    halves h;
    std::memcpy(&h, p, sizeof h);
    return h;
}

INLINE floats load(const bf16* p) { return widened(load_halves(p)); }

// The first n lanes (0 < n < LANES) from memory, the others 0; nothing behind them is touched.
INLINE floats load(const float* p, int n) {
#if WIDE_512
    return (floats)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    floats v = {};
    std::memcpy(&v, p, n * sizeof *p);
    return v;
#endif
}

INLINE halves load_halves(const bf16* p, int n) {
#if WIDE_512
    return (halves)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p);
#else
    halves h = {};
    std::memcpy(&h, p, n * sizeof *p);
    return h;
#endif
}

INLINE floats load(const bf16* p, int n) { return widened(load_halves(p, n)); }

// To bfloat16, to the nearest and to even at ties; a NaN stays one.
INLINE halves narrowed(floats v) {
#if WIDE_512 && defined(__AVX512BF16__)
    return (halves)_mm512_cvtneps_pbh((__m512)v);
#else
    words u = (words)v;
    words rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    words quiet = (u >> 16) | 0x40u;
    return __builtin_convertvector((words)(v == v ? (ints)rounded : (ints)quiet), halves);
#endif
}

INLINE void store(float* p, floats v) { std::memcpy(p, &v, sizeof v); }

INLINE void store(bf16* p, floats v) {
    halves h = narrowed(v);
    std::memcpy(p, &h, sizeof h);
}

// The first n lanes (0 < n < LANES) to memory.
INLINE void store(float* p, floats v, int n) {
#if WIDE_512
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    std::memcpy(p, &v, n * sizeof *p);
#endif
}

INLINE void store(bf16* p, floats v, int n) {
    halves h = narrowed(v);
#if WIDE_512
    _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)h);
#else
    std::memcpy(p, &h, n * sizeof *p);
#endif
}

// n lanes, or all of them where n is LANES or more.
template <class E>
INLINE floats read(const E* p, int64_t n) {
    return n >= LANES ? load(p) : load(p, (int)n);
}

template <class E>
INLINE void write(E* p, floats v, int64_t n) {
    if (n >= LANES)
        store(p, v);
    else
        store(p, v, (int)n);
}

// The larger of each lane; b where one of them is NaN.
INLINE floats larger(floats a, floats b) {
#if WIDE_512
    return (floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}

#if defined(__AVX2__) || WIDE_512
INLINE float folded_sum(__m256 v) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

INLINE float folded_largest(__m256 v) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
#endif

// All lanes, folded by halves, always in the same order.
INLINE float sum(floats v) {
#if WIDE_512
    return folded_sum(_mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1)));
#elif defined(__AVX2__)
    return folded_sum((__m256)v);
#else
    return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

INLINE float largest(floats v) {
#if WIDE_512
    return folded_largest(
        _mm256_max_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1)));
#elif defined(__AVX2__)
    return folded_largest((__m256)v);
#else
    const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
    return a > b ? a : b;
#endif
}

// To the nearest whole number, for |x| below 2^22.
INLINE floats rounded(floats x) {
#if WIDE_512
    return (floats)_mm512_roundscale_ps((__m512)x, 0);
#else
    const floats magic = all(12582912.f);  // 1.5 · 2^23: the sum has no room for a fraction
    return (x + magic) - magic;
#endif
}

// y · 2^n for a whole number n; from AVX-512 on also where the result has no normal form.
INLINE floats scaled(floats y, floats n) {
#if WIDE_512
    return (floats)_mm512_scalef_ps((__m512)y, (__m512)n);
#else
    return (floats)((ints)y + (__builtin_convertvector(n, ints) << 23));
#endif
}

// e^x within about 1e-7 of it (relative), for x up to 88; from −87.3 down it stays at e^−87.3, about 1e-38.
// x = n ln 2 + r with |r| ≤ ln 2 / 2, ln 2 in two parts (Cody and Waite); a polynomial of the sixth degree for e^r.
INLINE floats exponential(floats x) {
    x = larger(all(-87.33f), x);  // in this order a NaN stays one
    floats n = rounded(x * 1.44269504f);
    floats r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    floats p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return scaled(p * (r * r) + r + 1.f, n);
}

// 2^x within about 2e-7 of it (relative), for x up to 127; from −126 down it stays at 2^−126. 2^(n + r) with
// |r| ≤ 1/2, and the polynomial of the fifth degree whose greatest relative error there is least.
INLINE floats power_of_two(floats x) {
    x = larger(all(-126.f), x);  // in this order a NaN stays one
    floats n = rounded(x);
    floats r = x - n;
    floats p = all(1.3276472e-3f);
    p = p * r + 9.675542e-3f;
    p = p * r + 5.5507131e-2f;
    p = p * r + 2.402212e-1f;
    p = p * r + 6.9314694e-1f;
    return scaled(p * r + 1.f, n);
}

// The logarithm to base 2 of a normal number above 0: of its fraction m in [√½, √2) by the series of the area tangent,
// log m = 2 (t + t³/3 + t⁵/5 + …) with t = (m − 1)/(m + 1), |t| ≤ 0.172.
INLINE floats binary_logarithm(floats x) {
    ints exponent = (ints)((words)x - 0x3f3504f3u) >> 23;  // 0x3f3504f3: √½
    floats m = (floats)((words)x - ((words)exponent << 23));
    floats t = (m - 1.f) / (m + 1.f);
    floats square = t * t;
    floats p = all(3.2059889e-1f);  // 2 / (9 ln 2)
    p = p * square + 4.1219858e-1f;
    p = p * square + 5.7707802e-1f;
    p = p * square + 9.6179669e-1f;
    p = p * square + 2.8853901f;
    return p * t + __builtin_convertvector(exponent, floats);
}

// The upper tail of the normal distribution at |x|, and e^(−x²/2): erfc by formula 7.1.26 of Abramowitz and Stegun,
// whose error is below 1.5e-7.
struct Normal {
    floats below, bell;

    explicit AT_ONCE Normal(floats x) {
        floats z = larger(x, -x) * 0.70710678f;
        bell = exponential(-z * z);
        floats t = 1.f / (1.f + 0.3275911f * z);
        floats p = all(1.061405429f);
        p = p * t - 1.453152027f;
        p = p * t + 1.421413741f;
        p = p * t - 0.284496736f;
        p = p * t + 0.254829592f;
        floats tail = 0.5f * p * t * bell;
        below = x >= 0.f ? 1.f - tail : tail;  // a NaN stays one through `tail`
    }
};

INLINE floats gelu(floats x) { return x * Normal(x).below; }

}  // namespace
