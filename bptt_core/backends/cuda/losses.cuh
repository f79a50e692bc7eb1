// The losses of bptt_core/heads.py for one pair, whose names and formulas these are.

// What an output of a pair is: the readout's, or 0, from which a learner starts.
template <bool ZERO>
__device__ __forceinline__ float output(const float* y, int k) {
    return ZERO ? 0.0f : y[k];
}

__device__ __forceinline__ float one_output(float y, float target, float parameter, float& slope) {
    const float e = y - target, size = fabsf(e);
    if constexpr (LOSS == LOSS_ABSOLUTE) {
        slope = e > 0.0f ? 1.0f : e < 0.0f ? -1.0f : e;  // 0 and NaN stay
        return size;
    } else if constexpr (LOSS == LOSS_HUBER) {
        slope = size <= parameter ? e : e > 0.0f ? parameter : e < 0.0f ? -parameter : e;
        return size <= parameter ? 0.5f * e * e : parameter * (size - 0.5f * parameter);
    } else if constexpr (LOSS == LOSS_STUDENT_T) {
        slope = (parameter + 1.0f) * e / (parameter + e * e);
        return 0.5f * (parameter + 1.0f) * log1pf(e * e / parameter);
    } else if constexpr (LOSS == LOSS_SIGMOID) {
        slope = sigmoid(y) - target;
        return (y < 0.0f ? 0.0f : y) + log1pf(expf(-fabsf(y))) - target * y;
    } else {
        slope = 2.0f * e;
        return e * e;
    }
}

template <bool ZERO>
__device__ float pinball(float* y, float target) {
    float sum = 0.0f;
    for (int k = 0; k < OUTPUTS; k++) {
        const float level = LEVELS[k], d = target - output<ZERO>(y, k), over = level * d, under = (level - 1.0f) * d;
        sum += over >= under ? over : under;
        if (!ZERO) y[k] = (d > 0.0f ? -level : d < 0.0f ? 1.0f - level : 0.0f) / OUTPUTS;
    }
    return sum / OUTPUTS;
}

template <bool ZERO>
__device__ float gaussian(float* y, float target) {
    constexpr float limit = LOG_VARIANCE_LIMIT;
    const float e = output<ZERO>(y, 0) - target, raw = output<ZERO>(y, 1);
    const float s = raw < -limit ? -limit : raw > limit ? limit : raw;
    const float scaled = e * expf(-s), slope = 0.5f * (1.0f - e * scaled);
    if (!ZERO) {
        const bool outwards = (raw >= limit && slope < 0.0f) || (raw <= -limit && slope > 0.0f);
        y[0] = scaled, y[1] = outwards ? 0.0f : slope;
    }
    return 0.5f * (s + e * scaled);
}

template <bool ZERO>
__device__ float softmax(float* y, float target) {
    float largest = output<ZERO>(y, 0), total = 0.0f, chosen = 0.0f;
    for (int k = 1; k < OUTPUTS; k++) largest = output<ZERO>(y, k) <= largest ? largest : output<ZERO>(y, k);
    for (int k = 0; k < OUTPUTS; k++) {
        const float shifted = output<ZERO>(y, k) - largest;
        total += expf(shifted);
        if (k == target) chosen = shifted;
    }
    if (!ZERO)
        for (int k = 0; k < OUTPUTS; k++) y[k] = expf(y[k] - largest) / total - (k == target ? 1.0f : 0.0f);
    return logf(total) - chosen;
}

// The loss of a pair whose outputs are `y` [OUTPUTS], or of outputs 0; those given become the slopes.
template <bool ZERO>
__device__ float pair_loss(float* y, float target, float parameter) {
    if constexpr (LOSS == LOSS_PINBALL) {
        return pinball<ZERO>(y, target);
    } else if constexpr (LOSS == LOSS_GAUSSIAN) {
        return gaussian<ZERO>(y, target);
    } else if constexpr (LOSS == LOSS_SOFTMAX) {
        return softmax<ZERO>(y, target);
    } else {
        float slope;
        const float value = one_output(output<ZERO>(y, 0), target, parameter, slope);
        if (!ZERO) y[0] = slope;
        return value;
    }
}
