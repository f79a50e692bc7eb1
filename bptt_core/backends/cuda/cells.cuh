// The equations of one unit at one step, forward and backward: bptt_core/cells.py, whose names and gate orders these
// are. Knows nothing of time or of which thread computes what.

__device__ __forceinline__ float sigmoid(float z) { return 0.5f * tanhf(0.5f * z) + 0.5f; }

// The activation of one number of a unit. One tanh serves all gates, as σ(z) = ½·tanh(½z) + ½.
__device__ __forceinline__ float activate(int slot, float z) {
    if constexpr (CELL == CELL_RELU) return z < 0.0f ? 0.0f : z;  // NaN stays
    if constexpr (CELL == CELL_TANH) return tanhf(z);
    if constexpr (CELL == CELL_GRU) return slot < 2 ? sigmoid(z) : z;
    const bool candidate = slot == 2;
    const float t = tanhf(candidate ? z : 0.5f * z);
    return candidate ? t : 0.5f * t + 0.5f;
}

// Whether a number of a unit, once activated, lets little gradient through.
__device__ __forceinline__ bool saturated(int slot, float a) {
    constexpr float bound = SATURATED;
    if constexpr (CELL == CELL_RELU) return a == 0.0f;
    if constexpr (CELL == CELL_TANH) return fabsf(a) >= bound;
    if (slot == 2) return CELL == CELL_LSTM && fabsf(a) >= bound;
    if (CELL == CELL_GRU && slot == 3) return fabsf(a) >= bound;
    return fabsf(2.0f * a - 1.0f) >= bound;
}

// LSTM: c' = f∘c + i∘g, h' = o∘tanh(c'), and tanh(c').
__device__ __forceinline__ float lstm_next(const float4& q, float& c, float& tanh_c) {
    c = q.y * c + q.x * q.z;
    tanh_c = tanhf(c);
    return q.w * tanh_c;
}

// GRU: n = tanh(x·wn + bn + r∘(h·un + bh)) in place of its input part, h' = (1 − z)∘n + z∘h.
__device__ __forceinline__ float gru_next(float4& q, float h) {
    q.w = tanhf(q.w + q.x * q.z);
    return q.w + q.y * (h - q.w);
}

// By the pre-activations; `dh` is by h', `dc` by c' → by c.
__device__ __forceinline__ float4 lstm_back(const float4& q, float c, float c_next, float dh, float& dc) {
    const float tanh_c = tanhf(c_next);
    dc += dh * (q.w * (1.0f - tanh_c * tanh_c));
    const float4 d = make_float4(dc * (q.z * q.x * (1.0f - q.x)), dc * (c * q.y * (1.0f - q.y)),
                                 dc * (q.x * (1.0f - q.z * q.z)), dh * (tanh_c * q.w * (1.0f - q.w)));
    dc *= q.y;
    return d;
}

// The same of a GRU: slot 2 is by the hidden part of n, slot 3 by its input part; `through` is dL/dh past the gates.
__device__ __forceinline__ float4 gru_back(const float4& q, float h, float dh, float& through) {
    const float dn = dh * ((1.0f - q.y) * (1.0f - q.w * q.w));
    through = dh * q.y;
    return make_float4(dn * (q.z * q.x * (1.0f - q.x)), dh * ((h - q.w) * q.y * (1.0f - q.y)), dn * q.x, dn);
}

__device__ __forceinline__ float elman_back(float a, float dh) {
    return CELL == CELL_TANH ? dh * (1.0f - a * a) : dh * (a > 0.0f ? 1.0f : 0.0f);
}

__device__ __forceinline__ float slot_of(const float4& q, int slot) {
    return slot == 0 ? q.x : slot == 1 ? q.y : slot == 2 ? q.z : q.w;
}
