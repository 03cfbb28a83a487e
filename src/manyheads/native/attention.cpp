// Multi-head self-attention over sequences that lie end to end, forward and backward.
//
//   S = Q Kᵀ / √d      P = softmax of each row of S      O = (P ∘ M) V      (M: dropout's 0 and 1/(1 − share))
//
//   dV = (P ∘ M)ᵀ dO   dP = (dO Vᵀ) ∘ M   dS = P ∘ (dP − rowsum(P ∘ dP))   dQ = dS K / √d   dK = dSᵀ Q / √d
//
// (Vaswani et al. 2017; the backward from the logarithm of each row's sum, without stored weights: Dao et al. 2022).
// One (sequence, head) is one piece of work. Its scores are made for a block of queries at a time, so that they stay
// in the processor's own cache, and never reach memory.
//
// All seven products are one: C = A B, where a number of A meets a whole vector of B. Operands are cells of 32 bits.
// Where the processor multiplies pairs of bfloat16 a cell is two of them that stand next to each other along the sum
// (`Pairs`); otherwise it is a float (`Plain`), to which bfloat16 is widened. Sums and softmax are float in both.
#include "kernel.h"

#include <cstdlib>

namespace {

typedef uint32_t cell __attribute__((may_alias));

// ---------------------------------------------------------------------------------------------------- products

struct Plain {
    static constexpr int STEP = 1;  // numbers in a cell
    static AT_ONCE floats add_product(floats sum, cell a, const cell* b) {
        float x;
        std::memcpy(&x, &a, sizeof x);
        return sum + x * load(reinterpret_cast<const float*>(b));
    }
};

#if WIDE_512 && defined(__AVX512BF16__)
struct Pairs {
    static constexpr int STEP = 2;
    static AT_ONCE floats add_product(floats sum, cell a, const cell* b) {
        return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a),
                                        (__m512bh)_mm512_loadu_si512(b));
    }
};
#else
typedef Plain Pairs;
#endif

// The numbers of a matrix in cells: element (m, k) at `at[m * row + k * column]`.
struct Matrix {
    const cell* at;
    int64_t row;
    int64_t column;
};

// R rows by C vectors of C = A B (or C += A B) in registers.
template <class E, int R, int C>
__attribute__((noinline)) void tile(Matrix a, const cell* b, int64_t b_row, int64_t depth, float* out,
                                    int64_t out_row, bool more) {
    floats sums[R][C] = {};
    for (int64_t k = 0; k < depth; k++) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const cell x = a.at[r * a.row + k * a.column];
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) sums[r][c] = E::add_product(sums[r][c], x, b + k * b_row + c * LANES);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) {
            float* to = out + r * out_row + c * LANES;
            store(to, more ? load(to) + sums[r][c] : sums[r][c]);
        }
    }
}

// How much the registers hold: 32 of them with AVX-512 and on Arm, 16 elsewhere.
#if WIDE_512 || defined(__aarch64__)
constexpr int MOST_VECTORS = 4;
constexpr int MOST_ROWS[] = {0, 8, 8, 8, 6};
#else
constexpr int MOST_VECTORS = 2;
constexpr int MOST_ROWS[] = {0, 8, 6};
#endif
constexpr int64_t DEPTH = 128;  // cells of the sum at a time: so much of B stays in the first cache

typedef void (*Tile)(Matrix, const cell*, int64_t, int64_t, float*, int64_t, bool);

template <class E, int C>
INLINE Tile tile_of(int rows) {
    static constexpr Tile by_rows[] = {tile<E, 1, C>, tile<E, 2, C>, tile<E, 3, C>, tile<E, 4, C>,
                                       tile<E, 5, C>, tile<E, 6, C>, tile<E, 7, C>, tile<E, 8, C>};
    return by_rows[rows - 1];
}

template <class E>
INLINE Tile tile_of(int rows, int vectors) {
    switch (vectors) {
        case 1: return tile_of<E, 1>(rows);
        case 2: return tile_of<E, 2>(rows);
#if WIDE_512 || defined(__aarch64__)
        case 3: return tile_of<E, 3>(rows);
        case 4: return tile_of<E, 4>(rows);
#endif
    }
    return nullptr;
}

// out [rows, vectors · LANES] = A [rows, depth] B [depth, vectors · LANES], or that added to `out`. depth in cells.
// Rows and vectors are dealt out evenly: a last tile of one row would wait for each product.
template <class E>
void multiply(Matrix a, const cell* b, int64_t b_row, int64_t rows, int64_t vectors, int64_t depth, float* out,
              int64_t out_row, bool more = false) {
    const int64_t columns = (vectors + MOST_VECTORS - 1) / MOST_VECTORS;
    for (int64_t k = 0; k < depth; k += DEPTH) {
        const int64_t deep = depth - k < DEPTH ? depth - k : DEPTH;
        for (int64_t column = 0, c = 0; column < columns; column++) {
            const int wide = (int)((vectors - c) / (columns - column));
            const int64_t bands = (rows + MOST_ROWS[wide] - 1) / MOST_ROWS[wide];
            for (int64_t band = 0, r = 0; band < bands; band++) {
                const int high = (int)((rows - r) / (bands - band));
                tile_of<E>(high, wide)({a.at + r * a.row + k * a.column, a.row, a.column},
                                       b + k * b_row + c * LANES, b_row, deep, out + r * out_row + c * LANES,
                                       out_row, more || k > 0);
                r += high;
            }
            c += wide;
        }
    }
}

// ------------------------------------------------------------------------------------------------- operands

INLINE int64_t whole(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// Memory of a thread for the piece that it works on; kept from call to call.
struct Room {
    char* memory = nullptr;
    size_t size = 0;
    size_t used = 0;

    void open(size_t bytes) {
        if (bytes > size) {
            std::free(memory);
            size = (bytes + 4095) / 4096 * 4096;
            memory = static_cast<char*>(std::aligned_alloc(64, size));
            if (memory == nullptr) std::abort();
        }
        used = 0;
    }
    cell* take(int64_t cells) {
        cell* at = reinterpret_cast<cell*>(memory + used);
        used += (size_t)(cells * 4 + 63) / 64 * 64;
        return at;
    }
    ~Room() { std::free(memory); }
};

// `count` rows of `width` numbers, `row` numbers apart.
template <class In>
struct Rows {
    const In* at;
    int64_t row;
    int64_t count;
    int64_t width;
};

template <class E>
INLINE int64_t cells(int64_t numbers) {
    return (numbers + E::STEP - 1) / E::STEP;
}

// The rows as floats, 0 from their width to whole vectors.
template <class In>
Matrix widened_rows(Rows<In> x, Room& room) {
    const int64_t row = whole(x.width), full = x.width / LANES * LANES;
    cell* out = room.take(x.count * row);
    for (int64_t i = 0; i < x.count; i++) {
        float* to = reinterpret_cast<float*>(out + i * row);
        int64_t c = 0;
        for (; c < full; c += LANES) store(to + c, load(x.at + i * x.row + c));
        if (c < x.width) store(to + c, load(x.at + i * x.row + c, (int)(x.width - c)));
    }
    return {out, row, 1};
}

// [count, width] with cells along the width: what stands on the left of a product over the width.
template <class E>
Matrix along_width(Rows<float> x, Room&) {
    static_assert(E::STEP == 1, "floats are never paired");
    return {reinterpret_cast<const cell*>(x.at), x.row, 1};
}

template <class E>
Matrix along_width(Rows<bf16> x, Room& room) {
    if (E::STEP == 1) return widened_rows(x, room);
    if (x.width % 2 == 0) return {reinterpret_cast<const cell*>(x.at), x.row / 2, 1};
    const int64_t row = cells<E>(x.width);
    cell* out = room.take(x.count * row);
    for (int64_t i = 0; i < x.count; i++) {
        out[i * row + row - 1] = 0;
        std::memcpy(out + i * row, x.at + i * x.row, (size_t)x.width * 2);
    }
    return {out, row, 1};
}

// Two rows of bfloat16 as cells that hold one number of each.
INLINE void store_paired(cell* to, halves upper, halves lower) {
    words w = as_words(upper) | (as_words(lower) << 16);
    std::memcpy(to, &w, sizeof w);
}

// [count, width] with cells along the count: what stands on the right of a product over the rows.
template <class E>
Matrix along_count(Rows<float> x, Room& room) {
    if (x.width % LANES == 0) return {reinterpret_cast<const cell*>(x.at), x.row, 1};
    return widened_rows(x, room);
}

template <class E>
Matrix along_count(Rows<bf16> x, Room& room) {
    if (E::STEP == 1) return widened_rows(x, room);
    const int64_t row = whole(x.width);
    cell* out = room.take(cells<E>(x.count) * row);
    for (int64_t i = 0; i < x.count; i += 2) {
        const bf16 *upper = x.at + i * x.row, *lower = upper + x.row;
        cell* to = out + i / 2 * row;
        const bool paired = i + 1 < x.count;
        for (int64_t c = 0; c < row; c += LANES) {
            const int n = (int)(x.width - c);
            const halves none = {};
            if (n >= LANES)
                store_paired(to + c, load_halves(upper + c), paired ? load_halves(lower + c) : none);
            else
                store_paired(to + c, load_halves(upper + c, n), paired ? load_halves(lower + c, n) : none);
        }
    }
    return {out, row, 1};
}

#if WIDE_512
// 16 rows of 16 cells turned over.
INLINE void turn(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}
#endif

// [rows, depth] cells turned over to [depth, whole(rows)]. From `rows` on the last one stands again: it makes scores
// that nobody looks at.
Matrix turned(Matrix x, int64_t rows, int64_t depth, Room& room) {
    const int64_t row = whole(rows);
    cell* out = room.take(depth * row);
#if WIDE_512
    for (int64_t i = 0; i < rows; i += 16) {
        const int high = (int)(rows - i < 16 ? rows - i : 16);
        for (int64_t k = 0; k < depth; k += 16) {
            const int wide = (int)(depth - k < 16 ? depth - k : 16);
            const __mmask16 mask = (__mmask16)(0xffffu >> (16 - wide));
            __m512i r[16];
            for (int j = 0; j < 16; j++)
                r[j] = _mm512_maskz_loadu_epi32(mask, x.at + (i + (j < high ? j : high - 1)) * x.row + k);
            turn(r);
            if (wide == 16)
                for (int j = 0; j < 16; j++) _mm512_storeu_si512(out + (k + j) * row + i, r[j]);
            else
                for (int j = 0; j < 16; j++)
                    if (j < wide) _mm512_storeu_si512(out + (k + j) * row + i, r[j]);
        }
    }
#else
    for (int64_t k = 0; k < depth; k++) {
        for (int64_t i = 0; i < rows; i++) out[k * row + i] = x.at[i * x.row + k];
        for (int64_t i = rows; i < row; i++) out[k * row + i] = x.at[(rows - 1) * x.row + k];
    }
#endif
    return {out, row, 1};
}

// ---------------------------------------------------------------------------------------- dropout and softmax

INLINE ints lanes() {
    ints x;
    for (int i = 0; i < LANES; i++) x[i] = i;
    return x;
}

// Dropout's mask, drawn where it is needed: whether a weight is kept is a function of the call's seed, the token that
// asks, the head and the column, so that the backward draws what the forward drew, on any number of threads.
// 32 bits are mixed for every two columns 16 apart, 16 bits for each: a share is met to 1/65,536.
struct Draw {
    uint32_t first = 0, second = 0;

    Draw() = default;
    Draw(uint64_t seed, int64_t token, int64_t heads, int64_t head) {
        uint64_t x = seed + (uint64_t)(token * heads + head + 1) * 0x9e3779b97f4a7c15u;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;  // the finaliser of splitmix64 (Steele et al. 2014)
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        x ^= x >> 31;
        first = (uint32_t)x;
        second = (uint32_t)(x >> 32);
    }

    // For columns v · LANES and on: words whose upper 16 bits decide. `held` carries them from one v to the next.
    AT_ONCE words at(int64_t v, words& held) const {
        const int64_t column = v * LANES;
        const bool upper = column % 32 >= 16;
        if (LANES < 16 || !upper) held = mixed((uint32_t)(column / 32 * 16 + column % 16));
        return upper ? held : held << 16;
    }

    AT_ONCE words mixed(uint32_t index) const {
        words x = ((words)lanes() + index) * 0x9e3779b9u + first;
        x = (x ^ (x >> 16)) * 0x21f0aaadu;  // a mixer of 32 bits with low bias (Wellons)
        x = ((x ^ second) ^ (x >> 15)) * 0x735a2d97u;
        return x ^ (x >> 15);
    }
};

struct Call {
    int64_t heads, width;
    const int32_t* starts;
    bool causal;
    uint64_t seed;
    uint32_t threshold;  // words below it are dropped; its lower 16 bits are 0
    float kept;          // 1 / (1 − share)
    float slope;         // 1 / √d
    float scale;         // log2(e) / √d: exponentials are powers of two here
};

// A row of scores becomes weights: 2^(scale · s − top), not yet divided by their sum, and 0 from column n on. They lie
// where the scores lay, as float or, in `Pairs`, as bfloat16 from the row's beginning. COUNT: the row's vectors where
// the compiler is to know them, else 0 and they are `count`.
template <class E, bool DROP, int COUNT>
INLINE void weigh(float* row, int64_t n, int64_t count, const Call& call, const Draw& draw, float* top_of_row,
                  float* sum_of_row) {
    if (COUNT) count = COUNT;
    const ints lane = lanes();
    floats most = all(-3.4e38f);
#pragma GCC unroll 4
    for (int64_t v = 0; v < count; v++) {
        floats s = load(row + v * LANES);
        most = larger(most, lane < (int)(n - v * LANES) ? s : most);
    }
    const float top = largest(most) * call.scale;
    const words threshold = words{} + call.threshold;
    words held = {};
    floats total = {};
#pragma GCC unroll 4
    for (int64_t v = 0; v < count; v++) {
        floats e = power_of_two(load(row + v * LANES) * call.scale - top);
        e = lane < (int)(n - v * LANES) ? e : floats{};
        total += e;
        if (DROP) e = draw.at(v, held) >= threshold ? e : floats{};
        if (E::STEP == 2)
            store(reinterpret_cast<bf16*>(row) + v * LANES, e);
        else
            store(row + v * LANES, e);
    }
    *top_of_row = top;
    *sum_of_row = sum(total);
}

// E::STEP rows of scores S and of dO Vᵀ, `across` apart, become the dropped weights and dS; n[i]: the columns that row i
// sees, 0 for one that is only there to fill a cell. In `Plain` they lie where S and dO Vᵀ lay. In `Pairs` dS lies as
// bfloat16 along the rows of `slopes`, and in the two rows of `weights` lie the weights and dS, two rows to a cell.
// Both lack the factors kept and 1/√d, which the products get.
template <class E, bool DROP, int COUNT>
INLINE void slope(float* weights, float* slopes, int64_t across, const int64_t* n, int64_t count, const Call& call,
                  const Draw* draws, const float* logarithms) {
    if (COUNT) count = COUNT;
    const ints lane = lanes();
    const words threshold = words{} + call.threshold, sign = words{} + 0x80000000u;
    float means[E::STEP];
#pragma GCC unroll 2
    for (int i = 0; i < E::STEP; i++) {
        float *w = weights + i * across, *s = slopes + i * across;
        floats mean = {};
        words held = {};
#pragma GCC unroll 4
        for (int64_t v = 0; v < count; v++) {
            const ints seen = lane < (int)(n[i] - v * LANES);
            floats p = seen ? power_of_two(load(w + v * LANES) * call.scale - logarithms[i]) : floats{};
            floats slope = seen ? load(s + v * LANES) : floats{};
            if (DROP) {  // what was dropped keeps its weight for dS, under the sign that no weight has
                const words bits = draws[i].at(v, held);
                slope = bits >= threshold ? slope * call.kept : floats{};
                mean += p * slope;
                p = bits >= threshold ? p : (floats)((words)p | sign);
            } else {
                mean += p * slope;
            }
            store(w + v * LANES, p);
            store(s + v * LANES, slope);
        }
        means[i] = sum(mean);
    }
#pragma GCC unroll 4
    for (int64_t v = 0; v < count; v++) {
        floats p[E::STEP], slope[E::STEP];
#pragma GCC unroll 2
        for (int i = 0; i < E::STEP; i++) {
            p[i] = load(weights + i * across + v * LANES);
            slope[i] = (load(slopes + i * across + v * LANES) - means[i]) * (floats)((words)p[i] & ~sign);
            if (DROP) p[i] = larger(floats{}, p[i]);
        }
        if (E::STEP == 2) {
            const halves upper = narrowed(slope[0]), lower = narrowed(slope[E::STEP - 1]);
            std::memcpy(reinterpret_cast<bf16*>(slopes) + v * LANES, &upper, sizeof upper);
            std::memcpy(reinterpret_cast<bf16*>(slopes + across) + v * LANES, &lower, sizeof lower);
            store_paired(reinterpret_cast<cell*>(weights) + v * LANES, narrowed(p[0]), narrowed(p[E::STEP - 1]));
            store_paired(reinterpret_cast<cell*>(weights) + across + v * LANES, upper, lower);
        } else {
            store(weights + v * LANES, p[0]);
            store(slopes + v * LANES, slope[0]);
        }
    }
}

// -------------------------------------------------------------------------------------------- one piece of work

struct Piece {
    int64_t begin, length, head;
};

// How many queries at a time: so many that their scores fill about `bytes`, and an even number.
INLINE int64_t block_of(int64_t length, int64_t bytes) {
    const int64_t rows = bytes / 4 / whole(length) / 2 * 2, all_of_them = (length + 1) / 2 * 2;
    return rows > all_of_them ? all_of_them : rows < 16 ? 16 : rows;
}

constexpr int64_t FORWARD_BYTES = 32768, BACKWARD_BYTES = 65536;

template <int N>
struct Count {
    static constexpr int value = N;
};

// Calls work(Count) with the number of vectors where it is small, so that loops over them are unrolled, else with 0.
template <class Work>
INLINE void with_count(int64_t vectors, Work work) {
    switch (vectors) {
        case 1: return work(Count<1>());
        case 2: return work(Count<2>());
        case 3: return work(Count<3>());
        case 4: return work(Count<4>());
        default: return work(Count<0>());
    }
}

// Writes rows of floats times a factor, one for each row or the same for all, to where they belong.
template <class Out>
INLINE void hand_over(const float* from, int64_t from_row, int64_t count, int64_t width, const float* factors,
                      float factor, Out* to, int64_t to_row) {
    for (int64_t i = 0; i < count; i++) {
        const float by = factors == nullptr ? factor : factors[i];
        int64_t c = 0;
        for (; c + LANES <= width; c += LANES) store(to + i * to_row + c, load(from + i * from_row + c) * by);
        if (c < width) store(to + i * to_row + c, load(from + i * from_row + c) * by, (int)(width - c));
    }
}

template <class In, class E, bool DROP>
void forward(const Call& call, const Piece& piece, const In* qkv, In* out, float* logarithms, Room& room) {
    const int64_t d = call.width, hidden = call.heads * d, length = piece.length;
    const int64_t wide = whole(d), across = whole(length), block = block_of(length, FORWARD_BYTES);
    room.open((size_t)(4 * wide * (across + 1) + block * (across + wide) + 2 * whole(block)) * 4 + 1024);
    const In* base = qkv + piece.begin * 3 * hidden + piece.head * d;
    const Matrix q = along_width<E>(Rows<In>{base, 3 * hidden, length, d}, room);
    const Matrix k = along_width<E>(Rows<In>{base + hidden, 3 * hidden, length, d}, room);
    const Matrix k_turned = turned(k, length, cells<E>(d), room);
    const Matrix v = along_count<E>(Rows<In>{base + 2 * hidden, 3 * hidden, length, d}, room);
    float* scores = reinterpret_cast<float*>(room.take(block * across));
    float* mixed = reinterpret_cast<float*>(room.take(block * wide));
    float* tops = reinterpret_cast<float*>(room.take(whole(block)));
    float* sums = reinterpret_cast<float*>(room.take(whole(block)));

    for (int64_t first = 0; first < length; first += block) {
        const int64_t rows = length - first < block ? length - first : block;
        const int64_t seen = call.causal ? first + rows : length, vectors = whole(seen) / LANES;
        multiply<E>({q.at + first * q.row, q.row, 1}, k_turned.at, k_turned.row, rows, vectors, cells<E>(d),
                    scores, across);
        with_count(vectors, [&](auto count) {
            for (int64_t i = 0; i < rows; i++) {
                const Draw draw(call.seed, piece.begin + first + i, call.heads, piece.head);
                weigh<E, DROP, decltype(count)::value>(scores + i * across, call.causal ? first + i + 1 : length,
                                                       vectors, call, draw, tops + i, sums + i);
            }
        });
        for (int64_t i = 0; i < rows; i += LANES) {
            const floats total = load(sums + i);
            store(tops + i, load(tops + i) + binary_logarithm(total));
            store(sums + i, (DROP ? call.kept : 1.f) / total);
        }
        float* to = logarithms + (piece.begin + first) * call.heads + piece.head;
        for (int64_t i = 0; i < rows; i++) to[i * call.heads] = tops[i];
        multiply<E>({reinterpret_cast<const cell*>(scores), across, 1}, v.at, v.row, rows, wide / LANES,
                    cells<E>(seen), mixed, wide);
        hand_over(mixed, wide, rows, d, sums, 1.f, out + (piece.begin + first) * hidden + piece.head * d, hidden);
    }
}

template <class In, class E, bool DROP>
void backward(const Call& call, const Piece& piece, const In* qkv, const In* above, const float* logarithms,
              In* below, Room& room) {
    const int64_t d = call.width, hidden = call.heads * d, length = piece.length;
    const int64_t wide = whole(d), across = whole(length), block = block_of(length, BACKWARD_BYTES);
    room.open((size_t)(11 * wide * (across + 1) + block * (2 * across + wide)) * 4 + 1024);
    const In* base = qkv + piece.begin * 3 * hidden + piece.head * d;
    const Rows<In> q_rows{base, 3 * hidden, length, d}, k_rows{base + hidden, 3 * hidden, length, d};
    const Rows<In> v_rows{base + 2 * hidden, 3 * hidden, length, d};
    const Rows<In> g_rows{above + piece.begin * hidden + piece.head * d, hidden, length, d};
    const Matrix q = along_width<E>(q_rows, room), g = along_width<E>(g_rows, room);
    const Matrix k_turned = turned(along_width<E>(k_rows, room), length, cells<E>(d), room);
    const Matrix v_turned = turned(along_width<E>(v_rows, room), length, cells<E>(d), room);
    const Matrix q_down = along_count<E>(q_rows, room), k_down = along_count<E>(k_rows, room);
    const Matrix g_down = along_count<E>(g_rows, room);
    float* weights = reinterpret_cast<float*>(room.take(block * across));
    float* slopes = reinterpret_cast<float*>(room.take(block * across));
    float* of_q = reinterpret_cast<float*>(room.take(block * wide));
    float* of_k = reinterpret_cast<float*>(room.take(length * wide));
    float* of_v = reinterpret_cast<float*>(room.take(length * wide));
    In* to = below + piece.begin * 3 * hidden + piece.head * d;
    if (call.causal) {  // a block gives nothing to the keys behind its last query
        std::memset(of_k, 0, (size_t)(length * wide) * 4);
        std::memset(of_v, 0, (size_t)(length * wide) * 4);
    }

    for (int64_t first = 0; first < length; first += block) {
        const int64_t rows = length - first < block ? length - first : block;
        const int64_t seen = call.causal ? first + rows : length, vectors = whole(seen) / LANES;
        multiply<E>({q.at + first * q.row, q.row, 1}, k_turned.at, k_turned.row, rows, vectors, cells<E>(d),
                    weights, across);
        multiply<E>({g.at + first * g.row, g.row, 1}, v_turned.at, v_turned.row, rows, vectors, cells<E>(d),
                    slopes, across);
        with_count(vectors, [&](auto count) {
            for (int64_t i = 0; i < rows; i += E::STEP) {
                int64_t n[2] = {0, 0};
                float logarithm[2] = {0, 0};
                Draw draws[2];
                for (int each = 0; each < E::STEP && i + each < rows; each++) {
                    const int64_t at = first + i + each;
                    n[each] = call.causal ? at + 1 : length;
                    logarithm[each] = logarithms[(piece.begin + at) * call.heads + piece.head];
                    draws[each] = Draw(call.seed, piece.begin + at, call.heads, piece.head);
                }
                slope<E, DROP, decltype(count)::value>(weights + i * across, slopes + i * across, across, n, vectors,
                                                       call, draws, logarithm);
            }
        });
        const cell* p = reinterpret_cast<const cell*>(weights);
        const cell* s = reinterpret_cast<const cell*>(slopes);
        multiply<E>({s, across, 1}, k_down.at, k_down.row, rows, wide / LANES, cells<E>(seen), of_q, wide);
        hand_over(of_q, wide, rows, d, nullptr, call.slope, to + first * 3 * hidden, 3 * hidden);
        const bool more = call.causal || first > 0;
        const int64_t down = first / E::STEP, deep = cells<E>(rows), row = across * E::STEP;
        multiply<E>({p, 1, row}, g_down.at + down * g_down.row, g_down.row, seen, wide / LANES, deep, of_v, wide,
                    more);
        multiply<E>({E::STEP == 2 ? p + across : s, 1, row}, q_down.at + down * q_down.row, q_down.row, seen,
                    wide / LANES, deep, of_k, wide, more);
    }
    hand_over(of_k, wide, length, d, nullptr, call.slope, to + hidden, 3 * hidden);
    hand_over(of_v, wide, length, d, nullptr, DROP ? call.kept : 1.f, to + 2 * hidden, 3 * hidden);
}

// ------------------------------------------------------------------------------------------------- all of them

thread_local Room own_room;

// Asks for rows that will soon be read, or written. (To the compiler such a loop does nothing; the empty asm keeps it.)
template <bool WRITE, class In>
INLINE void fetch_rows(const In* at, int64_t row, int64_t count, int64_t width) {
    constexpr int64_t line = 64 / (int64_t)sizeof(In);
    for (int64_t i = 0; i < count; i++)
        for (int64_t c = 0; c < width; c += line) {
            __builtin_prefetch(at + i * row + c, WRITE);
            asm volatile("");
        }
}

// Does all pieces, those of the longest sequences first.
template <class Fetch, class Work>
void share_out(const Call& call, const int32_t* order, int64_t sequences, int64_t threads, Fetch fetch, Work work) {
    const int64_t pieces = sequences * call.heads;
    double products = 0;  // of queries and keys: for few of them other threads cost more than they bring
    for (int64_t b = 0; b < sequences; b++) {
        const double length = call.starts[b + 1] - call.starts[b];
        products += length * length * (double)call.heads;
    }
    const int64_t team = products < 20000 ? 1 : threads < pieces ? threads : pieces;
    const auto piece = [&](int64_t i) {
        const int64_t b = order[i / call.heads];
        return Piece{call.starts[b], call.starts[b + 1] - call.starts[b], i % call.heads};
    };
    const auto one = [&](int64_t i) {
        if (i + 1 < pieces) fetch(piece(i + 1));
        work(piece(i), own_room);
    };
    if (team < 2) {
        for (int64_t i = 0; i < pieces; i++) one(i);
        return;
    }
    const int64_t fine = pieces / (team * 32), chunk = fine < 1 ? 1 : fine > 16 ? 16 : fine;
#pragma omp parallel for num_threads(team) schedule(dynamic, chunk)
    for (int64_t i = 0; i < pieces; i++) one(i);
}

template <class In, class E>
void forward_all(const Call& call, const void* qkv, void* out, float* logarithms, const int32_t* order,
                 int64_t sequences, int64_t threads) {
    const In* from = static_cast<const In*>(qkv);
    In* to = static_cast<In*>(out);
    const int64_t hidden = call.heads * call.width;
    const auto fetch = [&](const Piece& piece) {
        for (int64_t part = 0; part < 3; part++)
            fetch_rows<false>(from + (piece.begin * 3 + part) * hidden + piece.head * call.width, 3 * hidden, piece.length, call.width);
        fetch_rows<true>(to + piece.begin * hidden + piece.head * call.width, hidden, piece.length, call.width);
    };
    share_out(call, order, sequences, threads, fetch, [&](const Piece& piece, Room& room) {
        if (call.threshold)
            forward<In, E, true>(call, piece, from, to, logarithms, room);
        else
            forward<In, E, false>(call, piece, from, to, logarithms, room);
    });
}

template <class In, class E>
void backward_all(const Call& call, const void* qkv, const void* above, const float* logarithms, void* below,
                  const int32_t* order, int64_t sequences, int64_t threads) {
    const In *from = static_cast<const In*>(qkv), *slopes = static_cast<const In*>(above);
    In* to = static_cast<In*>(below);
    const int64_t hidden = call.heads * call.width;
    const auto fetch = [&](const Piece& piece) {
        for (int64_t part = 0; part < 3; part++)
            fetch_rows<false>(from + (piece.begin * 3 + part) * hidden + piece.head * call.width, 3 * hidden, piece.length, call.width);
        fetch_rows<false>(slopes + piece.begin * hidden + piece.head * call.width, hidden, piece.length, call.width);
        for (int64_t part = 0; part < 3; part++)
            fetch_rows<true>(to + (piece.begin * 3 + part) * hidden + piece.head * call.width, 3 * hidden, piece.length, call.width);
    };
    share_out(call, order, sequences, threads, fetch, [&](const Piece& piece, Room& room) {
        if (call.threshold)
            backward<In, E, true>(call, piece, from, slopes, logarithms, to, room);
        else
            backward<In, E, false>(call, piece, from, slopes, logarithms, to, room);
    });
}

Call call_of(const int32_t* starts, int64_t heads, int64_t width, int64_t causal, double share, uint64_t seed) {
    const double slope = 1 / std::sqrt((double)width);
    const long dropped = std::lround(share * 65536);
    return {heads,
            width,
            starts,
            causal != 0,
            seed,
            (uint32_t)(dropped < 65535 ? dropped : 65535) << 16,
            (float)(1 / (1 - share)),
            (float)slope,
            (float)(slope * 1.4426950408889634)};
}

}  // namespace

// qkv [T, 3, heads, width] → out [T, heads, width]; logarithms [T, heads] (float): log2 of each row's sum of
// exponentials. low: bfloat16, else float. starts [sequences + 1]; order [sequences]: in which order they are dealt out.
EXPORT void mh_attention_forward(const void* qkv, void* out, float* logarithms, const int32_t* starts,
                                 const int32_t* order, int64_t sequences, int64_t heads, int64_t width, int64_t low,
                                 int64_t causal, double share, uint64_t seed, int64_t threads) {
    const Call call = call_of(starts, heads, width, causal, share, seed);
    if (low)
        forward_all<bf16, Pairs>(call, qkv, out, logarithms, order, sequences, threads);
    else
        forward_all<float, Plain>(call, qkv, out, logarithms, order, sequences, threads);
}

// above [T, heads, width], the gradient of `out` → below [T, 3, heads, width], that of qkv.
EXPORT void mh_attention_backward(const void* qkv, const void* above, const float* logarithms, void* below,
                                  const int32_t* starts, const int32_t* order, int64_t sequences, int64_t heads,
                                  int64_t width, int64_t low, int64_t causal, double share, uint64_t seed,
                                  int64_t threads) {
    const Call call = call_of(starts, heads, width, causal, share, seed);
    if (low)
        backward_all<bf16, Pairs>(call, qkv, above, logarithms, below, order, sequences, threads);
    else
        backward_all<float, Plain>(call, qkv, above, logarithms, below, order, sequences, threads);
}
