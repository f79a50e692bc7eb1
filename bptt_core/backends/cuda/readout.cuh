// From hidden states to outputs, losses and slopes, and the slopes back to the hidden states: the readout and the mean
// over the active pairs. All threads take part; results are there for all of them when a function returns.

// The outputs [K] of the hidden state `h`, one warp for each.
__device__ float read_out(const float* params, const float* h, int k) {
    float sum = 0.0f;
    for (int u = lane(); u < H; u += 32) sum += h[u] * params[AT_WO + u * K + k];
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    return sum + params[AT_BO + k];
}

// The first row of a window that may hold a pair which arrived in the last `span` events.
__device__ __forceinline__ int first_active_row(int length, int span) {
    if constexpr (AHEAD == 0) return 0;
    const int first = length - span - HORIZON;
    return first > 0 ? first : 0;
}

// Whether pair n of a row is trained: its target is known, and arrived in the last `span` events.
__device__ __forceinline__ bool active(int row, int n, int span) {
    const float target = targets()[row * N + n];
    long long age;
    if constexpr (AHEAD == 0)
        age = block().book.event_count - block().arrived_event[row * N + n];
    else
        age = length() - 1 - (row + 1 + n / TARGETS);
    return target == target && age < span && (AHEAD == 0 || age >= 0);
}

// How many pairs of the rows from `first` on are active.
__device__ __noinline__ int active_pairs(int first, int span) {
    int count = 0;
    const int all = (length() - AHEAD - first) * N;
    for (int i = thread(); i < all; i += THREADS) count += active(first + i / N, i % N, span);
    return static_cast<int>(block_sum(count));
}

// The newest row that has an active pair, where there is one; every thread looks.
__device__ __noinline__ int newest_active(int span) {
    for (int i = (length() - AHEAD) * N - 1; i > 0; i--)
        if (active(i / N, i % N, span)) return i / N;
    return 0;
}

// Reads out the update's rows; leaves their losses beside them, and the slopes by their outputs in `dys`.
__device__ __noinline__ void slopes() {
    Shared& s = block();
    const int first = s.update.first, rows = s.update.rows - first, pairs = s.update.pairs, span = s.update.span;
    const float parameter = s.book.loss_parameter, count = pairs;
    double sum = 0, naive = 0;
    for (int i = warp(); i < rows * N; i += WARPS) {
        float* const dys = &s.dys[i / N][i % N * OUTPUTS];
        const bool trained = active(first + i / N, i % N, span);
        for (int k = 0; k < OUTPUTS; k++) {
            const float y = trained ? read_out(params(), s.hs[first + i / N + 1], i % N * OUTPUTS + k) : 0.0f;
            if (lane() == 0) dys[k] = y;
        }
        if (lane() == 0 && trained) {
            const float target = targets()[(first + i / N) * N + i % N];
            sum += pair_loss<false>(dys, target, parameter);
            naive += GUARD ? pair_loss<true>(dys, target, parameter) : 0.0f;
            for (int k = 0; k < OUTPUTS; k++) dys[k] /= count;
        }
    }
    sum = block_sum(sum);
    naive = block_sum(naive);
    if (thread() == 0) s.update.losses = {static_cast<float>(sum / pairs), static_cast<float>(naive / pairs)};
    BARRIER();
}

// The slopes by the outputs as slopes by the hidden states, and the readout's part of the gradient; there after the
// next barrier.
__device__ __noinline__ void readout_backward() {
    Shared& s = block();
    const int first = s.update.first, rows = s.update.rows - first;
    for (int i = thread(); i < rows * H; i += THREADS) {
        const float* const wo = params() + AT_WO + i % H * K;
        float sum = 0.0f;
        for (int k = 0; k < K; k++) sum += s.dys[i / H][k] * wo[k];
        s.dhs[i / H][i % H] = sum;
    }
    for (int i = thread(); i < (H + 1) * K; i += THREADS) {
        const int unit = i / K, k = i % K;
        float sum = 0.0f;
        for (int r = 0; r < rows; r++) sum += s.dys[r][k] * (unit < H ? s.hs[first + r + 1][unit] : 1.0f);
        s.rest[AT_WO - WH_SIZE + i] = sum;
    }
}
