// A thread's share of the recurrent weights: TILE_ROWS × TILE_COLUMNS of them, in registers and used in both
// directions, so that there is no transposed copy; or read again at every step where a block's registers cannot hold
// them. Partial sums meet by shuffles and each lane keeps its share of them. Knows nothing of cells.
//
// Rows are numbers of units (unit · SLOTS + slot), columns are units. COLUMN_GROUPS lanes side by side have the same
// rows; the columns of a lane are quadruples, COLUMN_GROUPS quadruples apart.

constexpr int QUADS = TILE_COLUMNS / 4;
constexpr int COLUMN_GROUPS = H / TILE_COLUMNS;
static_assert(COLUMN_GROUPS * (SLOTS * H / TILE_ROWS) == THREADS, "shapes.py counts the threads");

// How many of `sums` a lane keeps when they meet over lanes whose numbers differ in the bits of `from` … `to`.
__host__ __device__ constexpr int kept(int sums, int from, int to) {
    for (int offset = from; offset >= to; offset /= 2) sums = sums % 2 == 0 ? sums / 2 : sums;
    return sums;
}
constexpr int ROWS_KEPT = kept(TILE_ROWS, COLUMN_GROUPS / 2, 1);
constexpr int COLUMNS_KEPT = kept(TILE_COLUMNS, 16, COLUMN_GROUPS);
// Lanes side by side that keep the same row.
constexpr int KEEPERS = COLUMN_GROUPS * ROWS_KEPT / TILE_ROWS;
static_assert(SLOTS % ROWS_KEPT == 0, "a lane keeps one unit or part of one");

// GRU's input part of n has no recurrent weights.
__host__ __device__ constexpr bool has_weights(int r) { return CELL != CELL_GRU || r % 4 != 3; }
__host__ __device__ constexpr int rank(int r) { return CELL == CELL_GRU ? r / 4 * 3 + r % 4 : r; }

// A quadruple of its tile lies so far behind its first: 16 bytes of each thread side by side.
__host__ __device__ constexpr int behind_first(int r, int quad) { return (rank(r) * QUADS + quad) * THREADS * 4; }

// Which share of the recurrent weights is this thread's.
struct Share {
    int number;  // of the thread

    __device__ __forceinline__ Share() : number(thread()) {}
    __device__ __forceinline__ int lane() const { return number & 31; }
    __device__ __forceinline__ int warp() const { return number >> 5; }
    __device__ __forceinline__ int column_group() const { return number % COLUMN_GROUPS; }
    __device__ __forceinline__ int column(int c) const { return (c / 4 * COLUMN_GROUPS + column_group()) * 4 + c % 4; }
    __device__ __forceinline__ int first_row() const { return number / COLUMN_GROUPS * TILE_ROWS; }
    __device__ __forceinline__ int row_kept() const { return first_row() + column_group() / KEEPERS * ROWS_KEPT; }
    __device__ __forceinline__ bool first_keeper() const { return column_group() % KEEPERS == 0; }
    __device__ __forceinline__ int unit() const { return row_kept() / SLOTS; }
    __device__ __forceinline__ int slot() const { return row_kept() % SLOTS; }
    // Where the thread's first quadruple lies in a learner's row of parameters.
    __device__ __forceinline__ int first() const { return AT_WH + number * 4; }
};

__device__ __forceinline__ float4 load4(const float* from) { return *reinterpret_cast<const float4*>(from); }
__device__ __forceinline__ void store4(float* to, const float4& q) { *reinterpret_cast<float4*>(to) = q; }

template <bool HELD>
struct Tile : Share {
    const float* first_quad;
    float4 own[HELD ? TILE_ROWS * QUADS : 1];

    __device__ __forceinline__ explicit Tile(const float* params) : first_quad(params + first()) {
        if constexpr (HELD) {
#pragma unroll
            for (int r = 0; r < TILE_ROWS; r++)
#pragma unroll
                for (int q = 0; q < QUADS; q++)
                    if (has_weights(r)) own[r * QUADS + q] = load4(first_quad + behind_first(r, q));
        }
    }
    // Row `from` + r, quadruple `from_quad` + q, of which r and q are known when this is compiled; `from` is a multiple
    // of 4.
    __device__ __forceinline__ float4 at(int from, int r, int from_quad, int q) const {
        if constexpr (HELD) return own[(from + r) * QUADS + from_quad + q];
        return load4(first_quad + behind_first(from, from_quad) + behind_first(r, q));
    }
};

template <int COUNT>
__device__ __forceinline__ void load(float (&to)[COUNT], const float* from) {
    if constexpr (COUNT % 4 == 0) {
#pragma unroll
        for (int k = 0; k < COUNT; k += 4) {
            const float4 q = load4(from + k);
            to[k] = q.x, to[k + 1] = q.y, to[k + 2] = q.z, to[k + 3] = q.w;
        }
    } else {
#pragma unroll
        for (int k = 0; k < COUNT; k++) to[k] = from[k];
    }
}

// A thread's columns of a row of hidden states.
__device__ __forceinline__ void load_columns(const Share& own, float4 (&to)[QUADS], const float* hs) {
#pragma unroll
    for (int q = 0; q < QUADS; q++) to[q] = load4(hs + own.column(4 * q));
}

// Sums over the lanes whose numbers differ in the bits of FROM … TO; the first `kept` of `sums` are then this lane's
// share, which begins at the returned place.
template <int FROM, int TO, int COUNT>
__device__ __forceinline__ int reduce_scatter(const Share& own, float (&sums)[COUNT]) {
    int count = COUNT, begin = 0;
#pragma unroll
    for (int offset = FROM; offset >= TO; offset >>= 1) {
        if (count % 2 == 0) {
            count /= 2;
            const bool upper = own.lane() & offset;
#pragma unroll
            for (int i = 0; i < COUNT / 2; i++)
                if (i < count) {
                    const float mine = upper ? sums[i + count] : sums[i];
                    const float other = upper ? sums[i] : sums[i + count];
                    sums[i] = mine + __shfl_xor_sync(ALL_LANES, other, offset);
                }
            begin += upper ? count : 0;
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; i++)
                if (i < count) sums[i] += __shfl_xor_sync(ALL_LANES, sums[i], offset);
        }
    }
    return begin;
}

// The sums wh·h of the rows that this lane keeps.
template <bool HELD>
__device__ __forceinline__ void times_hidden(const Tile<HELD>& w, const float* hs, float (&kept_sums)[ROWS_KEPT]) {
    float sums[TILE_ROWS];
#pragma unroll
    for (int r = 0; r < TILE_ROWS; r++) sums[r] = 0.0f;
#pragma unroll(HELD ? QUADS : 1)
    for (int q = 0; q < QUADS; q++) {
        const float4 h = load4(hs + w.column(4 * q));
#pragma unroll
        for (int r = 0; r < TILE_ROWS; r++)
            if (has_weights(r)) {
                const float4 v = w.at(0, r, q, 0);
                sums[r] += v.x * h.x;
                sums[r] += v.y * h.y;
                sums[r] += v.z * h.z;
                sums[r] += v.w * h.w;
            }
    }
    reduce_scatter<COLUMN_GROUPS / 2, 1>(w, sums);
#pragma unroll
    for (int r = 0; r < ROWS_KEPT; r++) kept_sums[r] = sums[r];
}

// Writes the sums whᵀ·dz of this warp's rows into `part` [H]; `gates` is the row of deltas.
template <bool HELD>
__device__ __forceinline__ void times_deltas(const Tile<HELD>& w, const float* gates, float* part) {
    constexpr int AT_ONCE = TILE_ROWS % 4 == 0 ? 4 : TILE_ROWS;
    float sums[TILE_COLUMNS];
#pragma unroll
    for (int c = 0; c < TILE_COLUMNS; c++) sums[c] = 0.0f;
#pragma unroll(HELD ? TILE_ROWS / AT_ONCE : 1)
    for (int first = 0; first < TILE_ROWS; first += AT_ONCE) {
        float dz[AT_ONCE];
        load(dz, gates + w.first_row() + first);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (has_weights(k))
#pragma unroll
                for (int q = 0; q < QUADS; q++) {
                    const float4 v = w.at(first, k, 0, q);
                    sums[4 * q] += v.x * dz[k];
                    sums[4 * q + 1] += v.y * dz[k];
                    sums[4 * q + 2] += v.z * dz[k];
                    sums[4 * q + 3] += v.w * dz[k];
                }
    }
    const int begin = reduce_scatter<16, COLUMN_GROUPS>(w, sums);
#pragma unroll
    for (int c = 0; c < COLUMNS_KEPT; c++) part[w.column(begin + c)] = sums[c];
}
