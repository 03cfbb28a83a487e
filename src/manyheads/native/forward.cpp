// A stack of layers on rows that lie end to end, without gradients: everything between the embeddings and the heads in
// one call, so that for a short batch nothing but the arithmetic is paid for.
//
//   qkv = x W + b    o = attention(qkv)    h = norm(x + o W + b)    y = norm(h + gelu(h W + b) W + b)
//
// (post-LN, Vaswani et al. 2017; Devlin et al. 2019). Products multiply pairs of bfloat16 and add in float; rows between
// them are bfloat16, the residual stream is float. Weights are packed once: COLUMNS outputs to a panel, and in a panel
// pairs of inputs one after the other, so that a product reads its weights once, from beginning to end.
#include "kernel.h"

#if WIDE_512 && defined(__AVX512BF16__)
#define PAIRED 1
#else
#define PAIRED 0
#endif

extern "C" {
void mh_attention_forward(const void* qkv, void* out, float* logarithms, const int32_t* starts, const int32_t* order,
                          int64_t sequences, int64_t heads, int64_t width, int64_t low, int64_t causal, double share,
                          uint64_t seed, int64_t threads);
void mh_add_norm(const void* x, const float* residual, const float* gamma, const float* beta, float* exact, void* low,
                 float* stats, int64_t rows, int64_t width, int64_t x_low, double eps, double share, uint64_t seed,
                 int64_t threads);
}

namespace {

typedef uint32_t cell __attribute__((may_alias));  // two bfloat16 that stand next to each other along the sum

constexpr int VECTORS = 4;                // of a panel
constexpr int64_t COLUMNS = VECTORS * 16;  // outputs of a panel
constexpr int MOST = 6;                   // rows in registers: 24 sums, 4 vectors of weights, one input
constexpr int64_t BLOCK = 192;            // rows that pass over a panel while it is in the nearer caches

#if PAIRED

template <int R, bool GELU>
__attribute__((noinline)) void band(const cell* a, int64_t a_row, const cell* panel, int64_t depth, const float* bias,
                                    bf16* out, int64_t out_row) {
    floats sums[R][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < VECTORS; c++) sums[r][c] = load(bias + c * LANES);
    for (int64_t k = 0; k < depth; k++, panel += COLUMNS) {
        __m512bh b[VECTORS];
#pragma GCC unroll 4
        for (int c = 0; c < VECTORS; c++) b[c] = (__m512bh)_mm512_loadu_si512(panel + c * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[r * a_row + k]);
#pragma GCC unroll 4
            for (int c = 0; c < VECTORS; c++) sums[r][c] = (floats)_mm512_dpbf16_ps((__m512)sums[r][c], x, b[c]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < VECTORS; c++)
            store(out + r * out_row + c * LANES, GELU ? gelu(sums[r][c]) : sums[r][c]);
}

typedef void (*Band)(const cell*, int64_t, const cell*, int64_t, const float*, bf16*, int64_t);

// out [rows, outputs] = x [rows, inputs] W + b, or its GELU; inputs even, outputs in whole panels.
template <bool GELU>
void product(const bf16* x, const cell* packed, const float* bias, bf16* out, int64_t rows, int64_t inputs,
             int64_t outputs, int threads) {
    static constexpr Band bands[] = {band<1, GELU>, band<2, GELU>, band<3, GELU>,
                                     band<4, GELU>, band<5, GELU>, band<6, GELU>};
    const int64_t depth = inputs / 2, panels = outputs / COLUMNS;
    const int64_t blocks = (rows + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t piece = 0; piece < blocks * panels; piece++) {
        const int64_t block = piece / panels, panel = piece % panels;
        // Rows are dealt out evenly to blocks, and to bands: a last band of one row would wait for each product.
        const int64_t from = rows * block / blocks, to = rows * (block + 1) / blocks;
        const int64_t count = (to - from + MOST - 1) / MOST;
        for (int64_t i = 0, row = from; i < count; i++) {
            const int high = (int)((to - row) / (count - i));
            bands[high - 1](reinterpret_cast<const cell*>(x) + row * depth, depth, packed + panel * depth * COLUMNS,
                            depth, bias + panel * COLUMNS, out + row * outputs + panel * COLUMNS, outputs);
            row += high;
        }
    }
}

#endif

}  // namespace

// 1 where this processor has what the functions below are made of.
EXPORT void mh_forward_able(int64_t* able) { *able = PAIRED; }

// W [outputs, inputs] bfloat16 → panels. inputs even, outputs in whole panels.
EXPORT void mh_pack(const void* weight, void* packed, int64_t outputs, int64_t inputs, int64_t threads) {
    const int64_t depth = inputs / 2;
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t panel = 0; panel < outputs / COLUMNS; panel++) {
        cell* to = (cell*)packed + panel * depth * COLUMNS;
        const cell* from = (const cell*)weight + panel * COLUMNS * depth;
        for (int64_t k = 0; k < depth; k++)
            for (int64_t c = 0; c < COLUMNS; c++) to[k * COLUMNS + c] = from[c * depth + k];
    }
}

// out = x W + b (GELU of it where `gelu`), rows of bfloat16.
EXPORT void mh_product(const void* x, const void* packed, const float* bias, void* out, int64_t rows, int64_t inputs,
                       int64_t outputs, int64_t gelu, int64_t threads) {
#if PAIRED
    (gelu ? product<true> : product<false>)((const bf16*)x, (const cell*)packed, bias, (bf16*)out, rows, inputs, outputs,
                                            (int)threads);
#endif
}

// `layers` layers over the rows exact [rows, hidden], float, and low, the same in bfloat16; both become the last states.
// parts: 12 addresses a layer: packed weight and bias of qkv, of output, of up, of down, and the scale and shift of the
// norm after attention and of the one after the feed-forward part. room: bfloat16 [rows, max(4 hidden, intermediate)];
// numbers: float [rows, heads + 2]. starts, order: as attention reads them. Where `read` (places of rows, each once) is
// given, of the last layer only what these rows' states need is done: they come to `few` [reads, hidden], and exact and
// low hold nothing of use. hidden and intermediate are whole panels.
EXPORT void mh_forward(const void* const* parts, int64_t layers, float* exact, void* low, void* room, float* numbers,
                       const int32_t* starts, const int32_t* order, int64_t sequences, int64_t rows, int64_t hidden,
                       int64_t heads, int64_t intermediate, int64_t causal, double eps, const int64_t* read,
                       int64_t reads, float* few, int64_t threads) {
#if PAIRED
    const int team = (int)threads;
    bf16* states = (bf16*)low;
    bf16* qkv = (bf16*)room;
    bf16* mixed = qkv + rows * 3 * hidden;
    bf16* wide = qkv;  // when it is filled, nobody reads the two before it any more
    float* stats = numbers + rows * heads;
    for (int64_t layer = 0; layer < layers; layer++, parts += 12) {
        const auto packed = [&](int at) { return (const cell*)parts[at]; };
        const auto vector = [&](int at) { return (const float*)parts[at]; };
        product<false>(states, packed(0), vector(1), qkv, rows, hidden, 3 * hidden, team);
        mh_attention_forward(qkv, mixed, numbers, starts, order, sequences, heads, hidden / heads, 1, causal, 0, 0,
                             threads);
        if (read && layer == layers - 1) {
            bf16* gathered = qkv;  // which nobody reads any more
            for (int64_t i = 0; i < reads; i++) {
                std::memcpy(few + i * hidden, exact + read[i] * hidden, hidden * sizeof *few);
                std::memcpy(gathered + i * hidden, mixed + read[i] * hidden, hidden * sizeof *gathered);
            }
            mixed = gathered;
            exact = few;
            rows = reads;
        }
        product<false>(mixed, packed(2), vector(3), states, rows, hidden, hidden, team);
        mh_add_norm(states, exact, vector(8), vector(9), exact, states, stats, rows, hidden, 1, eps, 0, 0, threads);
        product<true>(states, packed(4), vector(5), wide, rows, hidden, intermediate, team);
        product<false>(wide, packed(6), vector(7), states, rows, intermediate, hidden, team);
        mh_add_norm(states, exact, vector(10), vector(11), exact, states, stats, rows, hidden, 1, eps, 0, 0, threads);
    }
#endif
}
