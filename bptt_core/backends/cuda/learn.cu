// One thread block is one learner, which it takes through all its steps of a call: bptt_core/tbptt.py, step by step,
// and bptt_core/reference.py for what a step's flags mean. The idea of one block for a whole update is Baidu's
// persistent network's (Diamos et al. 2016) and FlashRNN's (Pöppel et al. 2024), here with optimiser and window as
// well.

__device__ bool tried(int result) { return result == UPDATE_APPLIED || result == UPDATE_NON_FINITE; }

// What all updates report before they have happened.
__device__ void blank_report() { fill(block().report + LOSS_COLUMN, COLUMNS - LOSS_COLUMN, NOT_A_NUMBER); }

// Whether there is an update to be made by the pairs of the last `span` events; there is none if that is negative. If
// so, all is ready for it.
__device__ __noinline__ bool open_update(int span) {
    Shared& s = block();
    const int rows = length() - AHEAD, first = first_active_row(length(), span);
    const bool may = span >= 0 && s.book.learning == 1;
    const int pairs = may && rows > 0 ? active_pairs(first, span) : 0;
    const bool measuring = (s.book.optimizer_steps + 1) % LAGS_EVERY == 0;
    const int newest = pairs > 0 && measuring ? newest_active(span) : rows - 1;
    if (pairs > 0) {
        blank_report();
        prepare(s.book);
    }
    const int skipped = span < 0 ? UPDATE_NOT_DUE : s.book.learning != 1 ? UPDATE_LEARNING_OFF : UPDATE_NO_TARGET;
    if (thread() == 0) s.update = {span, first, rows, pairs, newest, measuring, 0, 0, 0, 0, {0, 0}, {skipped, 0}};
    BARRIER();
    return pairs > 0;
}

// The update came to something that is not finite.
__device__ __noinline__ void refuse() {
    Shared& s = block();
    blank_report();
    if (thread() == 0) s.book.non_finite++;
    const int reset = GUARD ? failed(s.book) : 0;
    if (thread() == 0) s.update.outcome = {UPDATE_NON_FINITE, reset};
}

// Carry and boundary carry move along the update's forward; rows that the next will not reach are given up.
__device__ void move_on() {
    store_carry(carry(), length());
    const int passed = length() + STRIDE - W;
    if (passed > 0) {
        store_carry(boundary(), passed);
        pass_window(passed);
    }
}

// What an update whose gradient is finite writes down; thread 0.
__device__ void book_update() {
    Shared& s = block();
    Book& book = s.book;
    const Update& update = s.update;
    if constexpr (CLIP == CLIP_QUANTILE) s.norm_ring[book.norm_count++ % RING] = update.norm;
    book.optimizer_steps++;
    book.applied++;
    book.clipped += update.share < 1.0f;
    s.report[LOSS_COLUMN] = update.losses.loss;
    s.report[GRADIENT_NORM] = update.norm;
    s.report[CLIP_SCALE] = update.share;
    s.report[SATURATION] = update.saturation;
    s.report[UPDATE_RATIO] = update.ratio;
}

// After an update whose gradient was finite.
__device__ __noinline__ void settle() {
    Shared& s = block();
    if (thread() == 0) book_update();
    const bool leapt = GUARD && !(s.update.ratio <= LEAP);
    if (leapt) take_back(s.book, s.update.ratio);
    move_on();
    const int reset = GUARD ? judge(s.book, s.update.losses) : 0;
    if (thread() == 0) s.update.outcome = {UPDATE_APPLIED, reset == 0 && leapt ? RESET_DIVERGED : reset};
    BARRIER();
}

// An update by the pairs of the last `span` events, if there is one to be made. Learners without a pair, or with a loss
// or norm that is not finite, stay as they are.
__device__ __forceinline__ void update(int span) {
    Shared& s = block();
    if (!open_update(span)) return;
    // To measure, the slope of one row alone is carried back, which makes deltas of all gates: all is done once more.
#pragma unroll 1
    for (;;) {
        count_saturated(forward<!STREAMED>(0, length(), boundary()));
        slopes();
        if (!isfinite(s.update.losses.loss)) return refuse();
        readout_backward();
        backward();
        if (!s.update.measuring) break;
        measure_slope();
    }
    input_gradient();
    if (!take_step()) return refuse();
    settle();
}

// The outputs [K] of the carry.
__device__ __noinline__ void write_outputs() {
    for (int k = warp(); k < K; k += WARPS) {
        const float y = read_out(params(), carry(), k);
        if (lane() == 0) block().call.ys[k] = y;
    }
}

__device__ bool season_changes() {
    const Place& here = block().call;
    return here.season >= 0 && (*here.flags & (STEP_CHANGED << here.season));
}

// The newest row joins the window. Returns the span of the update that is due if this is the k1-th event since the
// last, or −1.
__device__ __noinline__ int enter() {
    Book& book = block().book;
    const bool event = *block().call.flags & STEP_EVENT;
    if (season_changes()) change_season(book);
    append(block().call.x, event);
    if constexpr (AHEAD == 0) {
        advance(carry(), length() - 1);
        write_outputs();
    }
    arrive(block().call.arrived);
    const long long since = book.since_update + event;
    const bool due = event && since >= STRIDE;
    BARRIER();
    if (thread() == 0) book.since_update = due ? 0 : since;
    return due ? book.span : -1;
}

// What is left to learn of a stream that does not go on: what arrived since the last update, now or never.
__device__ int span_at_end() {
    const int since = block().book.since_update;
    return since > 0 || AHEAD == 0 ? since : -1;
}

// Window and carries are forgotten; what came of the last update is not.
__device__ __noinline__ void begin_anew() {
    Shared& s = block();
    BARRIER();
    if (thread() == 0) {
        s.ended = s.update.outcome;
        s.call.ending = 0;
        s.book.since_update = 0;
    }
    clear();
}

// What became of both updates that a step may have, and on to the next one.
__device__ __noinline__ void finish() {
    Shared& s = block();
    if (thread() == 0) {
        const Outcome ended = s.ended;
        Outcome now = s.update.outcome;
        s.book.no_target += now.result == UPDATE_NO_TARGET;
        s.book.learning_off += now.result == UPDATE_LEARNING_OFF;
        if (season_changes()) now.reset = RESET_SEASON;
        s.report[RESULT] = tried(now.result) || !tried(ended.result) ? now.result : ended.result;
        s.report[RESET] = now.reset > ended.reset ? now.reset : ended.reset;
        s.ended = {UPDATE_NOT_DUE, 0};
    }
    BARRIER();
    copy(s.call.report, s.report, COLUMNS);
    BARRIER();
    blank_report();
    if (thread() == 0) {
        s.call.flags++;
        s.call.x += D;
        s.call.arrived += s.call.arrived_stride;
        s.call.ys += K;
        s.call.report += COLUMNS;
        s.call.left--;
        s.call.ending = s.call.left > 0 && (*s.call.flags & STEP_CLEAR);
    }
    BARRIER();
}

// One step with its flags, its outputs and its report.
__device__ __forceinline__ void take() {
    Shared& s = block();
#pragma unroll 1
    for (;;) {
        update(s.call.ending ? span_at_end() : enter());
        if (!s.call.ending) break;
        begin_anew();
    }
    // An update's forward has brought the carry to the newest step already.
    if (AHEAD > 0 && s.update.outcome.result != UPDATE_APPLIED) advance(carry(), length() - 1);
    if (AHEAD > 0) write_outputs();
    finish();
}

// The head of a call's buffer: how many learners and anchors, and where the other parts begin, in bytes.
struct Call {
    long long learners, anchors, table, flags, inputs, arrived, books, ys, reports;
};

// `table` says of every learner: slot, first step, steps, first row of what it gives back, anchor, season.
constexpr int TABLE = 6;

// Takes learner k of the call to this block.
__device__ __noinline__ void load_learner(float* slab, char* buffer, float* spare, int k) {
    Shared& s = block();
    const Call& call = *reinterpret_cast<const Call*>(buffer);
    char* const book = buffer + call.books + static_cast<long long>(k) * BOOK_ROW;
    BARRIER();
    for (int i = thread(); i < BOOK_BYTES; i += THREADS) reinterpret_cast<char*>(&s.book)[i] = book[i];
    blank_report();
    const long long* const own = reinterpret_cast<const long long*>(buffer + call.table) + k * TABLE;
    if (thread() == 0) {
        s.row = slab + own[0] * DEVICE_ROW;
        s.spare = spare + static_cast<long long>(blockIdx.x) * WH_SIZE;
        // One that is as small as a number has come with them.
        char* const small_or_large = AT_ARRIVED_EVENT < BOOK_BYTES ? reinterpret_cast<char*>(&s.book) : book;
        s.arrived_event = reinterpret_cast<long long*>(small_or_large + AT_ARRIVED_EVENT);
        s.norm_ring = reinterpret_cast<double*>(book + AT_NORM_RING);
        s.call.flags = reinterpret_cast<const signed char*>(buffer + call.flags) + own[1];
        s.call.x = reinterpret_cast<const float*>(buffer + call.inputs) + own[1] * D;
        s.call.arrived = reinterpret_cast<const float*>(buffer + call.arrived) + (own[1] * call.anchors + own[4]) * N;
        s.call.arrived_stride = call.anchors * N;
        s.call.season = static_cast<int>(own[5]);
        s.call.ys = reinterpret_cast<float*>(buffer + call.ys) + own[3] * K;
        s.call.report = reinterpret_cast<float*>(buffer + call.reports) + own[3] * COLUMNS;
        s.call.left = own[2];
        s.call.learner = k;
        s.call.ending = own[2] > 0 && (*s.call.flags & STEP_CLEAR);
        s.ended = {UPDATE_NOT_DUE, 0};
    }
    BARRIER();
}

__device__ __noinline__ void store_learner(char* buffer) {
    const long long k = block().call.learner;
    char* const book = buffer + reinterpret_cast<const Call*>(buffer)->books + k * BOOK_ROW;
    for (int i = thread(); i < BOOK_BYTES; i += THREADS) book[i] = reinterpret_cast<const char*>(&block().book)[i];
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) learn(float* slab, char* buffer, float* spare) {
    for (int k = blockIdx.x; k < reinterpret_cast<const Call*>(buffer)->learners;
         k = block().call.learner + gridDim.x) {
        load_learner(slab, buffer, spare, k);
        while (block().call.left > 0) take();
        store_learner(buffer);
    }
}
