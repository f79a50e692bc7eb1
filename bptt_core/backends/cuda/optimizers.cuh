// The rules of bptt_core/optimizers.py for one parameter, the schedule, and how a gradient is kept within bounds
// (bptt_core/clipping.py).

// What update number `step` needs; thread 0, in double.
__device__ Rates rates_of(const Book& book, long long step) {
    double rate = book.learning_rate;
    if constexpr (SCHEDULE != SCHEDULE_CONSTANT) {
        const double slowed = 1 + (step - 1) / book.decay_updates;
        rate *= fmax(book.rate_floor, 1 / (SCHEDULE == SCHEDULE_INVERSE_SQRT ? sqrt(slowed) : slowed));
    }
    if (book.warmup_updates > 0) rate *= fmin(1.0, step / fmax(book.warmup_updates, 1.0));
    rate *= book.rate_factor;
    Rates r;
    r.decay = 1 - rate * book.weight_decay;
    r.rate = rate;
    r.beta1 = book.beta1, r.rest1 = 1 - book.beta1;
    r.beta2 = book.beta2, r.rest2 = 1 - book.beta2;
    r.step_size = rate / (1 - pow(book.beta1, static_cast<double>(step)));
    r.v_scale = 1 / (1 - pow(book.beta2, static_cast<double>(step)));
    return r;
}

// Denormal moments would never leave again.
__device__ __forceinline__ float flushed(float moment) {
    return fabsf(moment) < static_cast<float>(TINY) ? 0.0f : moment;
}

// The same of a sum of squares, which is not negative unless a foreign checkpoint says so.
__device__ __forceinline__ float flushed_square(float moment) {
    return moment < static_cast<float>(TINY) ? 0.0f : moment;
}

// The parameter after its update; `m` and `v` are its moments, of which a rule uses none, the first or both.
__device__ __forceinline__ float updated(float w, float g, float& m, float& v, const Rates& r) {
    constexpr float epsilon = EPSILON;
    w *= r.decay;
    if constexpr (OPTIMIZER == OPTIMIZER_SGD) {
        return w - r.rate * g;
    } else if constexpr (OPTIMIZER == OPTIMIZER_RMSPROP) {
        m = flushed_square(m * r.beta2 + r.rest2 * (g * g));
        return w - r.rate * g / (sqrtf(m) + epsilon);
    } else if constexpr (OPTIMIZER == OPTIMIZER_ADAM || OPTIMIZER == OPTIMIZER_ADAMW) {
        m = flushed(m * r.beta1 + r.rest1 * g);
        v = flushed_square(v * r.beta2 + r.rest2 * (g * g));
        return w - r.step_size * m / (sqrtf(v * r.v_scale) + epsilon);
    } else {
        m = flushed(m * r.beta1 + g);
        return w - r.rate * (OPTIMIZER == OPTIMIZER_NESTEROV ? g + r.beta1 * m : m);
    }
}

// The quantile of past norms that bounds the next, interpolated linearly, into `norm_limit`; all threads, each of which
// ranks some norms.
__device__ void prepare_limit(const Book& book) {
    Shared& s = block();
    const int known = book.norm_count < RING ? static_cast<int>(book.norm_count) : RING;
    const double position = book.clip_limit * (known - 1);
    const int below = static_cast<int>(floor(position)), above = below + 1 < known ? below + 1 : known - 1;
    for (int i = thread(); i < known; i += THREADS) {
        const double norm = s.norm_ring[i];
        int rank = 0;
        for (int k = 0; k < known; k++) rank += s.norm_ring[k] < norm || (s.norm_ring[k] == norm && k < i);
        if (rank == below) s.limits[0] = norm;
        if (rank == above) s.limits[1] = norm;
    }
    BARRIER();
    const double limit = s.limits[0] + (s.limits[1] - s.limits[0]) * (position - below);
    if (thread() == 0) s.norm_limit = known < CLIP_FEWEST ? NO_LIMIT : limit;
}

// Of the next update: what the optimiser and the clip need to know. There for all after the next barrier.
__device__ __noinline__ void prepare(const Book& book) {
    if (thread() == 0) block().rates = rates_of(book, book.optimizer_steps + 1);
    if constexpr (CLIP == CLIP_QUANTILE) prepare_limit(book);
}

// What a gradient of this norm is multiplied by.
__device__ __forceinline__ float clip_factor(double norm, double limit) {
    if constexpr (CLIP == CLIP_NORM) return fmin(1.0, limit / (norm + 1e-6));
    return norm > limit ? limit / norm : 1.0;
}
