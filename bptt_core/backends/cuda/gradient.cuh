// The gradient of a learner's parameters: of the recurrent weights in the registers that held them, of the rest in
// shared memory; where weights are streamed, theirs lies in the block's spare row. Then one pass over both clips it and
// takes the optimiser's step, and another writes the new parameters, which by then lie where the gradient was.

struct Gradient : Share {
    float4 own[STREAMED ? 1 : TILE_ROWS * QUADS];
    float* spare;  // of this thread

    __device__ __forceinline__ Gradient() : spare(block().spare + number * 4) {}
    __device__ __forceinline__ float4 get(int r, int q) const {
        if constexpr (STREAMED) return load4(spare + behind_first(r, q));
        return own[r * QUADS + q];
    }
    __device__ __forceinline__ void set(int r, int q, const float4& value) {
        if constexpr (STREAMED)
            store4(spare + behind_first(r, q), value);
        else
            own[r * QUADS + q] = value;
    }
    // The first row becomes the last. Registers have no index: a loop over rows that is not to be unrolled turns them
    // round.
    __device__ __forceinline__ void turn() {
        if constexpr (!STREAMED) {
            float4 row[QUADS];
#pragma unroll
            for (int q = 0; q < QUADS; q++) row[q] = own[q];
#pragma unroll
            for (int i = 0; i < (TILE_ROWS - 1) * QUADS; i++) own[i] = own[i + QUADS];
#pragma unroll
            for (int q = 0; q < QUADS; q++) own[(TILE_ROWS - 1) * QUADS + q] = row[q];
        }
    }
};

__device__ __forceinline__ void add(float4& sum, float scale, const float4& q) {
    sum.x += scale * q.x, sum.y += scale * q.y, sum.z += scale * q.z, sum.w += scale * q.w;
}

// hsᵀ·deltas over the update's rows: this thread's tile of the recurrent weights' gradient.
__device__ __forceinline__ void recurrent_gradient(Gradient& g) {
    Shared& s = block();
    const int steps = s.update.rows;
    constexpr int ROWS = STREAMED ? 2 : TILE_ROWS;  // at a time
#pragma unroll(STREAMED ? 1 : TILE_ROWS / ROWS)
    for (int first = 0; first < TILE_ROWS; first += ROWS) {
        float4 sums[ROWS * QUADS];
#pragma unroll
        for (int i = 0; i < ROWS * QUADS; i++) sums[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
        for (int t = 0; t < steps; t++) {
            float4 h[QUADS];
            load_columns(g, h, s.hs[t]);
            float dz[ROWS];
            load(dz, &s.gates[t][g.first_row() + first]);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                if (has_weights(first + r))
#pragma unroll
                    for (int q = 0; q < QUADS; q++) add(sums[r * QUADS + q], dz[r], h[q]);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int q = 0; q < QUADS; q++)
                if (has_weights(first + r)) g.set(first + r, q, sums[r * QUADS + q]);
    }
}

// xsᵀ·deltas over the update's rows and the sums of deltas: gradient of the input weights and biases, into `rest`.
__device__ __noinline__ void input_gradient() {
    Shared& s = block();
    const int steps = s.update.rows;
    constexpr int AT_ONCE = XS % 8 == 0 ? 8 : 4;
    for (int i = thread(); i < G * H * (XS / AT_ONCE); i += THREADS) {
        const int row = i % (G * H), first = i / (G * H) * AT_ONCE, at = row % H * SLOTS + input_slot(row / H);
        float sums[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) sums[k] = 0.0f;
        for (int t = 0; t < steps; t++) {
            const float dz = s.gates[t][at];
#pragma unroll
            for (int k = 0; k < AT_ONCE; k += 4) {
                const float4 x = load4(&s.xs[t][first + k]);
                sums[k] += dz * x.x, sums[k + 1] += dz * x.y, sums[k + 2] += dz * x.z, sums[k + 3] += dz * x.w;
            }
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (first + k <= D) s.rest[(first + k) * G * H + row] = sums[k];
    }
    if constexpr (CELL == CELL_GRU)
        for (int i = thread(); i < H; i += THREADS) {
            float sum = 0.0f;
            for (int t = 0; t < steps; t++) sum += s.gates[t][i * SLOTS + 2];
            s.rest[(D + 1) * G * H + i] = sum;
        }
    BARRIER();
}

// Where number i of `rest` lies in a row of parameters: the recurrent weights come between the input weights and the
// bias.
__device__ __forceinline__ int of_rest(int i) { return i < AT_WH ? i : i + WH_SIZE; }

__device__ __forceinline__ float square(const float4& q) { return q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w; }

// Euclidean norm of the whole gradient.
__device__ __forceinline__ double norm_of(const Gradient& g) {
    double sum = 0;
#pragma unroll
    for (int r = 0; r < TILE_ROWS; r++)
#pragma unroll
        for (int q = 0; q < QUADS; q++)
            if (has_weights(r)) sum += square(g.get(r, q));
    const float* const rest = block().rest;
    for (int i = thread(); i < REST; i += THREADS) sum += rest[i] * rest[i];
    return sqrt(block_sum(sum));
}

__device__ __forceinline__ float cut(float g, float bound) { return g > bound ? bound : g < -bound ? -bound : g; }

// Cuts every element to ±bound; returns the norm that is left, or −1 if that changed none.
__device__ __forceinline__ double cut_elements(Gradient& g, float bound) {
    double sum = 0;
    int over = 0;
#pragma unroll
    for (int r = 0; r < TILE_ROWS; r++)
#pragma unroll
        for (int q = 0; q < QUADS; q++)
            if (has_weights(r)) {
                const float4 v = g.get(r, q);
                over |= fabsf(v.x) > bound || fabsf(v.y) > bound || fabsf(v.z) > bound || fabsf(v.w) > bound;
                const float4 left = make_float4(cut(v.x, bound), cut(v.y, bound), cut(v.z, bound), cut(v.w, bound));
                sum += square(left);
                g.set(r, q, left);
            }
    float* const rest = block().rest;
    for (int i = thread(); i < REST; i += THREADS) {
        over |= fabsf(rest[i]) > bound;
        rest[i] = cut(rest[i], bound);
        sum += rest[i] * rest[i];
    }
    const bool changed = block_sum(over) > 0;
    sum = block_sum(sum);
    return changed ? sqrt(sum) : -1;
}

// How a gradient was clipped: what it is still to be multiplied by, and its norm after over its norm before, which is
// exactly 1 where it was left alone.
struct Clipped {
    float factor, share;
};

__device__ __forceinline__ Clipped clip(Gradient& g, double norm) {
    const Book& book = block().book;
    if constexpr (CLIP == CLIP_OFF) return {1.0f, 1.0f};
    if constexpr (CLIP == CLIP_VALUE) {
        const double left = cut_elements(g, book.clip_limit);
        if (left < 0) return {1.0f, 1.0f};
        const float share = left / block().update.norm;  // thread 0's is reported, which has written the norm
        return {1.0f, share < BELOW_ONE ? share : BELOW_ONE};
    }
    const float factor = clip_factor(norm, CLIP == CLIP_QUANTILE ? block().norm_limit : book.clip_limit);
    return {factor, factor};
}

// A quadruple of a moment, from that of the parameters.
template <int K>
__device__ __forceinline__ float4 load_moment(const float* params) {
    if constexpr (K >= MOMENTS) return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    return load4(params + (K == 0 ? AT_MOMENT0 : AT_MOMENT1) - AT_PARAMS);
}

template <int K>
__device__ __forceinline__ void store_moment(float* params, const float4& q) {
    if constexpr (K < MOMENTS) store4(params + (K == 0 ? AT_MOMENT0 : AT_MOMENT1) - AT_PARAMS, q);
}

// One step of the optimiser by the gradient times `factor`: writes the moments, leaves the new parameters in its place.
// Returns the norm of the change over that of the parameters.
__device__ __forceinline__ float move(Gradient& g, float factor) {
    Shared& s = block();
    const Rates rates = s.rates;
    float* const first = params() + g.first();
    double change = 0, size = 0;
#pragma unroll 1
    for (int r = 0; r < TILE_ROWS; r++) {
        const int here = STREAMED ? r : 0;
#pragma unroll
        for (int q = 0; q < QUADS; q++)
            if (has_weights(r)) {
                float* const at = first + behind_first(r, q);
                const float4 w = load4(at), d = g.get(here, q);
                float4 m = load_moment<0>(at), v = load_moment<1>(at), next;
                next.x = updated(w.x, d.x * factor, m.x, v.x, rates);
                next.y = updated(w.y, d.y * factor, m.y, v.y, rates);
                next.z = updated(w.z, d.z * factor, m.z, v.z, rates);
                next.w = updated(w.w, d.w * factor, m.w, v.w, rates);
                store_moment<0>(at, m);
                store_moment<1>(at, v);
                size += square(w);
                change += square(make_float4(next.x - w.x, next.y - w.y, next.z - w.z, next.w - w.w));
                g.set(here, q, next);
            }
        g.turn();
    }
    for (int i = thread(); i < REST; i += THREADS) {
        const int at = of_rest(i);
        const float w = params()[at];
        float m = MOMENTS > 0 ? moment(0)[at] : 0.0f, v = MOMENTS > 1 ? moment(1)[at] : 0.0f;
        const float next = updated(w, s.rest[i] * factor, m, v, rates);
        if (MOMENTS > 0) moment(0)[at] = m;
        if (MOMENTS > 1) moment(1)[at] = v;
        size += w * w;
        change += (next - w) * (next - w);
        s.rest[i] = next;
    }
    change = block_sum(change);
    size = block_sum(size);
    return size == 0 ? 0.0 : sqrt(change / size);
}

// Writes the new parameters.
__device__ __forceinline__ void keep_step(const Gradient& g) {
    float* const first = params() + g.first();
#pragma unroll
    for (int r = 0; r < TILE_ROWS; r++)
#pragma unroll
        for (int q = 0; q < QUADS; q++)
            if (has_weights(r)) store4(first + behind_first(r, q), g.get(r, q));
    for (int i = thread(); i < REST; i += THREADS) params()[of_rest(i)] = block().rest[i];
}

// The optimiser's step by the deltas and what is in `rest` already, if the gradient is finite. One that leaps is not
// kept.
__device__ __forceinline__ bool take_step() {
    Update& update = block().update;
    Gradient g;
    recurrent_gradient(g);
    const double norm = norm_of(g);
    if (!isfinite(norm)) return false;
    if (thread() == 0) update.norm = norm;
    const Clipped clipped = clip(g, norm);
    if (thread() == 0) update.share = clipped.share;
    const float ratio = move(g, clipped.factor);
    if (!GUARD || ratio <= LEAP) keep_step(g);
    if (thread() == 0) update.ratio = ratio;
    BARRIER();
    return true;
}
