// The network over the rows of a window, forward and backward through time. All threads of the block take part; what a
// function leaves in shared memory is there for all of them when it returns.

// The four numbers of this lane's unit, from the lanes that keep them.
template <int COUNT>
__device__ __forceinline__ float4 gather(const Share& own, const float (&mine)[COUNT]) {
    if constexpr (COUNT == 1) {
        const int leader = own.lane() & ~3;
        const float a = __shfl_sync(ALL_LANES, mine[0], leader), b = __shfl_sync(ALL_LANES, mine[0], leader + 1);
        const float c = __shfl_sync(ALL_LANES, mine[0], leader + 2), d = __shfl_sync(ALL_LANES, mine[0], leader + 3);
        return make_float4(a, b, c, d);
    } else {
        static_assert(COUNT == 2, "two lanes share a unit");
        const float a = __shfl_xor_sync(ALL_LANES, mine[0], 1), b = __shfl_xor_sync(ALL_LANES, mine[1], 1);
        return own.slot() == 0 ? make_float4(mine[0], mine[1], a, b) : make_float4(a, b, mine[0], mine[1]);
    }
}

// Where a gate's input part lies among the numbers of a unit.
__device__ __forceinline__ int input_slot(int gate) { return CELL == CELL_GRU && gate == 2 ? 3 : gate; }

// xs·wx + b of `steps` rows, into the gates: the part that needs no recurrence.
__device__ __noinline__ void project(const float* params, int steps) {
    Shared& s = block();
    constexpr int AT_ONCE = 8;
    for (int row = thread(); row < G * H; row += THREADS) {
        const int at = row % H * SLOTS + input_slot(row / H);
        for (int first = 0; first < steps; first += AT_ONCE) {
            float sums[AT_ONCE];
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) sums[k] = 0.0f;
            for (int d = 0; d < XS; d += 4) {
                float w[4];
#pragma unroll
                for (int k = 0; k < 4; k++)
                    w[k] = d + k < D ? params[AT_WX + (d + k) * G * H + row] : d + k == D ? params[AT_B + row] : 0.0f;
#pragma unroll
                for (int k = 0; k < AT_ONCE; k++) {
                    const float4 x = load4(&s.xs[first + k][d]);
                    sums[k] += w[0] * x.x + w[1] * x.y + w[2] * x.z + w[3] * x.w;
                }
            }
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++)
                if (first + k < steps) s.gates[first + k][at] = sums[k];
        }
    }
    if constexpr (CELL == CELL_GRU)
        for (int i = thread(); i < steps * H; i += THREADS) s.gates[i / H][i % H * SLOTS + 2] = params[AT_BH + i % H];
}

// One step of the unit that this lane keeps, or of its part of one: activations into `gates`, h' and c' beside them.
// Returns how many of its numbers are saturated.
template <bool HELD>
__device__ __forceinline__ int next_step(const Tile<HELD>& w, int t, float& c) {
    Shared& s = block();
    const int unit = w.unit(), slot = w.slot();
    float* const gates = &s.gates[t][w.row_kept()];
    float mine[ROWS_KEPT];
    times_hidden(w, s.hs[t], mine);
    int count = 0;
#pragma unroll
    for (int k = 0; k < ROWS_KEPT; k++) {
        mine[k] = activate(slot + k, gates[k] + mine[k]);
        if (CELL != CELL_GRU || slot + k < 3) count += saturated(slot + k, mine[k]);
    }
    if constexpr (SLOTS == 1) {
        if (w.first_keeper()) gates[0] = s.hs[t + 1][unit] = mine[0];
        return w.first_keeper() ? count : 0;
    } else {
        float4 q = gather(w, mine);
        if constexpr (CELL == CELL_LSTM) {
            float tanh_c;
            const float h = lstm_next(q, c, tanh_c);
            if (slot == 0) s.hs[t + 1][unit] = h;
            if (slot == 2) s.cs[t + 1][unit] = c;
            count += slot == 0 && fabsf(tanh_c) >= static_cast<float>(SATURATED);
        } else {
            const float h = gru_next(q, s.hs[t][unit]);
            if (slot == 0) s.hs[t + 1][unit] = h;
            if (slot + ROWS_KEPT == SLOTS) {
                mine[ROWS_KEPT - 1] = q.w;
                count += saturated(3, q.w);
            }
        }
#pragma unroll
        for (int k = 0; k < ROWS_KEPT; k++) gates[k] = mine[k];
        return count;
    }
}

// `steps` rows of the window from row `first`, entered by `carry` [S, H]; returns the saturated numbers that this
// thread has seen. For many steps the weights are HELD in registers.
template <bool HELD>
__device__ __forceinline__ int forward(int first, int steps, const float* carry) {
    Shared& s = block();
    const float* const xs = inputs() + first * D;
    for (int i = thread(); i < steps * XS; i += THREADS) {
        const int d = i % XS;
        s.xs[i / XS][d] = d < D ? xs[i / XS * D + d] : d == D ? 1.0f : 0.0f;
    }
    for (int i = thread(); i < H; i += THREADS) {
        s.hs[0][i] = carry[i];
        if constexpr (HAS_C) s.cs[0][i] = carry[H + i];
    }
    BARRIER();
    project(params(), steps);
    const Tile<HELD> w(params());
    float c = HAS_C ? s.cs[0][w.unit()] : 0.0f;
    int count = 0;
    BARRIER();
    for (int t = 0; t < steps; t++) {
        count += next_step(w, t, c);
        BARRIER();
    }
    return count;
}

// One step back through time for this lane's unit; `sums` are those of every warp from the step after, [WARPS, H].
// Writes the deltas in place of the activations of row `t`; `kept` is dL/dc or, of a GRU, dL/dh past the gates.
__device__ __forceinline__ void back_step(const Share& own, int t, float dh, const float (*sums)[H], float& kept) {
    Shared& s = block();
    const int unit = own.unit();
    if constexpr (CELL == CELL_GRU) dh += kept;
#pragma unroll
    for (int k = 0; k < WARPS; k++) dh += sums[k][unit];
    if constexpr (SLOTS == 1) {
        const float d = elman_back(s.gates[t][unit], dh);
        if (own.first_keeper()) s.gates[t][unit] = d;
    } else {
        const float4 q = load4(&s.gates[t][unit * SLOTS]);
        const float4 d = CELL == CELL_LSTM ? lstm_back(q, s.cs[t][unit], s.cs[t + 1][unit], dh, kept)
                                           : gru_back(q, s.hs[t][unit], dh, kept);
        __syncwarp();
#pragma unroll
        for (int k = 0; k < ROWS_KEPT; k++) s.gates[t][own.row_kept() + k] = slot_of(d, own.slot() + k);
    }
    __syncwarp();
}

// Which column of the report the norm at this lag belongs to, or −1.
__device__ int lag_column(int lag) {
    for (int k = 0; k < LAG_COUNT; k++)
        if (LAGS[k] == lag) return BY_LAG + k;
    return -1;
}

// How much of an update's forward is saturated, from the numbers that each thread has seen.
__device__ __noinline__ void count_saturated(int seen) {
    const double all = block_sum(seen);
    if (thread() == 0) block().update.saturation = all / (static_cast<double>(length()) * SATURABLE * H);
}

// Reports the norm at lag 0, after all others: the update is measured, and now made in earnest.
__device__ __noinline__ void measure_slope() {
    Shared& s = block();
    const int row = s.update.newest - s.update.first;
    double square = 0;
    for (int i = thread(); i < H; i += THREADS) square += s.dhs[row][i] * s.dhs[row][i];
    square = block_sum(square);
    if (thread() == 0) {
        s.report[BY_LAG] = sqrt(square);
        s.update.measuring = false;
        s.update.newest = s.update.rows - 1;
    }
}

// Carries `dhs` back from the update's newest row, turning gates into deltas. To measure, the slope of that row alone,
// and the norms of what reaches the carries before it go into the report.
__device__ __forceinline__ void backward() {
    Shared& s = block();
    const int newest = s.update.newest, first_active = s.update.first;
    const bool measure = s.update.measuring;
    for (int i = thread(); i < WARPS * H; i += THREADS) s.part[0][i / H][i % H] = 0.0f;
    const Tile<!STREAMED> w(params());
    const int unit = w.unit();
    float kept_back = 0.0f;
    BARRIER();
    int now = 0;
    for (int t = newest; t >= 0; t--) {
        const bool outside = t >= first_active && (!measure || t == newest);
        back_step(w, t, outside ? s.dhs[t - first_active][unit] : 0.0f, s.part[now], kept_back);
        times_deltas(w, s.gates[t], s.part[1 - now][w.warp()]);
        now = 1 - now;
        BARRIER();
        if (measure && lag_column(newest - t + 1) >= 0) {
            float dh = CELL == CELL_GRU ? kept_back : 0.0f;
            for (int k = 0; k < WARPS; k++) dh += s.part[now][k][unit];
            const double by_h = dh, by_c = HAS_C ? kept_back : 0.0f;
            const double square = by_h * by_h + by_c * by_c;
            const double sum = block_sum(w.slot() == 0 && w.first_keeper() ? square : 0);
            if (thread() == 0) s.report[lag_column(newest - t + 1)] = sqrt(sum);
        }
    }
}
