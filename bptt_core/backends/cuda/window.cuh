// The window of bptt_core/window.py: the newest steps of a stream, row by row in the device's memory, and the carries
// at its two ends. What a function wrote is there for all threads when it returns.

// One step from `carry` [S, H], in place, through row `row` of the inputs; one that is not finite becomes zero and is
// counted.
__device__ __noinline__ void advance(float* carry, int row) {
    Shared& s = block();
    forward<false>(row, 1, carry);
    int wrong = 0;
    for (int i = thread(); i < H; i += THREADS) wrong += !isfinite(s.hs[1][i]) || (HAS_C && !isfinite(s.cs[1][i]));
    const bool finite = block_sum(wrong) == 0;
    for (int i = thread(); i < H; i += THREADS) {
        carry[i] = finite ? s.hs[1][i] : 0.0f;
        if constexpr (HAS_C) carry[H + i] = finite ? s.cs[1][i] : 0.0f;
    }
    if (thread() == 0 && !finite) s.book.carry_resets++;
    BARRIER();
}

// The carry of the last forward that enters step `step`.
__device__ void store_carry(float* carry, int step) {
    const Shared& s = block();
    for (int i = thread(); i < H; i += THREADS) {
        carry[i] = s.hs[step][i];
        if constexpr (HAS_C) carry[H + i] = s.cs[step][i];
    }
}

// Gives up the oldest `count` rows; the boundary carry is the caller's.
__device__ __noinline__ void pass_window(int count) {
    const int live = length() - count;
    pass_rows(inputs(), D, live, count);
    pass_rows(targets(), N, live, count);
    if constexpr (AHEAD == 0) pass_rows(block().arrived_event, N, live, count);
    if (thread() == 0) block().book.length = live;
    BARRIER();
}

// Puts the newest row into the window; no target of it is known.
__device__ void append(const float* x, bool event) {
    if (length() == W) {
        advance(boundary(), 0);
        pass_window(1);
    }
    copy(inputs() + length() * D, x, D);
    fill(targets() + length() * N, N, NOT_A_NUMBER);
    BARRIER();
    if (thread() == 0) {
        block().book.length++;
        if constexpr (AHEAD == 0) block().book.event_count += event;
    }
    BARRIER();
}

// Puts the targets that came with the newest row beside the rows they belong to; there after the next barrier.
__device__ void arrive(const float* arrived) {
    for (int n = thread(); n < N; n += THREADS) {
        const int row = length() - 1 - AHEAD - n / TARGETS;
        if (row < 0) continue;
        targets()[row * N + n] = arrived[n];
        if (AHEAD == 0) block().arrived_event[row * N + n] = block().book.event_count;
    }
}

// Forgets window and carries, when nobody reads them.
__device__ void clear() {
    fill(carry(), CARRIES * H, 0.0f);
    fill(boundary(), CARRIES * H, 0.0f);
    if (thread() == 0) block().book.length = 0;
    BARRIER();
}
