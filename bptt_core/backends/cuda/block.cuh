// What one thread block holds while it learns: the shared memory of one learner, that learner's rows in the device's
// memory, and sums over all threads in a fixed order. Knows names and sizes, and no equations. Sizes and offsets are
// constants of one shape, written before this text by source.py.
//
// Legend: W rows of the window, D inputs, H hidden units, G gates, K outputs, N pairs of a step, A rows that may hold a
// trained pair, P parameters. A unit has SLOTS numbers in a row of `gates`, side by side: LSTM i, f, g, o; GRU r, z,
// the hidden part of n, and n, for which there is no recurrent weight; Elman the unit itself.

// Between all threads. The line it stands on is what the emulation knows a barrier by, so it is no function.
#define BARRIER()                   \
    do {                            \
        if constexpr (WARPS == 1)   \
            __syncwarp();           \
        else                        \
            __syncthreads();        \
    } while (0)

// Of names that every compiler of this text knows.
#define NOT_A_NUMBER nanf("")
constexpr double NO_LIMIT = 1.7976931348623157e308;

// What thread 0 prepares for the optimiser, in double, for all threads.
struct Rates {
    float decay, rate, beta1, rest1, beta2, rest2, step_size, v_scale;
};

// Where a learner is in its lesson.
struct Place {
    const signed char* flags;
    const float *x, *arrived;
    long long arrived_stride, left;  // numbers from one step to the next; steps
    float *ys, *report;
    int learner, season;
    int ending;  // whether the stream is first to begin anew
};

// What came of an update: its result, and why the learner was reset, or 0.
struct Outcome {
    int result, reset;
};

struct Losses {
    float loss, naive;  // means over the active pairs; the naive one of outputs 0
};

// What an update is made of, and what came of it.
struct Update {
    int span;            // of the pairs, in events
    int first, rows;     // rows with active pairs, all rows that may have one
    int pairs;           // active ones
    int newest;          // row from which the slopes are carried back
    int measuring;       // the slope of that row alone, for the report
    float saturation;
    double norm;         // of the gradient
    float share, ratio;  // of it that was left by the clip; of the norms of the change and of the parameters
    Losses losses;
    Outcome outcome;
};

struct Shared {
    alignas(16) float gates[W][SLOTS * H];  // projections → activations → deltas, in place
    alignas(16) float hs[W + 1][H];         // hs[0] is the carry's h
    alignas(16) float cs[HAS_C ? W + 1 : 1][H];
    alignas(16) float dhs[A][H];             // dL/dhs from outside
    alignas(16) float xs[XS_ROWS][XS];       // inputs, a 1 for the bias, zeros
    alignas(16) float dys[A][K];             // outputs → slopes
    alignas(16) float part[2][WARPS][H];     // sums of each warp on their way back through time
    alignas(16) float rest[REST];            // gradient of all but the recurrent weights → new parameters
    alignas(16) float report[COLUMNS];
    alignas(16) double sums[WARPS];
    double limits[2], norm_limit;            // the two norms that a quantile lies between, and the quantile
    float* row;                              // the learner's, of the slab
    float* spare;                            // of this block, if streamed: a number for each recurrent weight
    double* norm_ring;
    long long* arrived_event;                // [W, N]
    Book book;
    Place call;
    Rates rates;
    Update update;
    Outcome ended;  // of the stream before, where one begins anew
    int verdict;
};

extern __shared__ __align__(16) float memory[];
__device__ __forceinline__ Shared& block() {
    static_assert(sizeof(Shared) <= SHARED_BYTES, "shapes.py counts the bytes of shared memory");
    return *reinterpret_cast<Shared*>(memory);
}

// The learner's rows in the device's memory.
__device__ __forceinline__ float* params() { return block().row + AT_PARAMS; }
__device__ __forceinline__ float* moment(int k) { return block().row + (k == 0 ? AT_MOMENT0 : AT_MOMENT1); }
__device__ __forceinline__ float* good() { return block().row + AT_GOOD; }
__device__ __forceinline__ float* carry() { return block().row + AT_CARRY; }        // [S, H]
__device__ __forceinline__ float* boundary() { return block().row + AT_BOUNDARY; }  // [S, H]
__device__ __forceinline__ float* inputs() { return block().row + AT_INPUTS; }      // [W, D]
__device__ __forceinline__ float* targets() { return block().row + AT_TARGETS; }    // [W, N]
__device__ __forceinline__ int length() { return static_cast<int>(block().book.length); }

// As if it were another number every time: what is derived from it must not stay in registers from one phase of an
// update to the next, where the weights need them.
__device__ __forceinline__ int thread() {
    int number = threadIdx.x;
    asm volatile("" : "+r"(number));
    return number;
}
__device__ __forceinline__ int lane() { return thread() & 31; }
__device__ __forceinline__ int warp() { return thread() >> 5; }

// The sum over all threads, which all get: a tree of lanes, then warp after warp. No barrier where there is one warp.
__device__ double block_sum(double value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(ALL_LANES, value, offset);
    if constexpr (WARPS > 1) {
        double* const sums = block().sums;
        if (lane() == 0) sums[warp()] = value;
        __syncthreads();
        value = 0;
#pragma unroll
        for (int k = 0; k < WARPS; k++) value += sums[k];
        __syncthreads();
    }
    return value;
}

// Rows [live, width] move down by `count` rows; all threads, which meet at least once.
template <typename Number>
__device__ void pass_rows(Number* rows, int width, int live, int count) {
    constexpr int AT_ONCE = 8 / sizeof(Number);
    const int total = live * width, by = count * width;
    int start = 0;
#pragma unroll 1
    do {
        Number moved[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            const int i = start + k * THREADS + thread();
            if (i < total) moved[k] = rows[i + by];
        }
        BARRIER();
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            const int i = start + k * THREADS + thread();
            if (i < total) rows[i] = moved[k];
        }
        start += AT_ONCE * THREADS;
    } while (start < total);
}

__device__ void fill(float* numbers, int count, float value) {
    for (int i = thread(); i < count; i += THREADS) numbers[i] = value;
}

__device__ void copy(float* to, const float* from, int count) {
    for (int i = thread(); i < count; i += THREADS) to[i] = from[i];
}
